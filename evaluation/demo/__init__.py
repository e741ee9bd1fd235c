"""The page that compares before and after."""
