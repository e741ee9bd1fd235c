"""What is said of runs, in a page and in files."""
