"""Draw, judge, score, report."""
