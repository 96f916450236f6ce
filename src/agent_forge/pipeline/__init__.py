"""Plan, run, judge and show: what turns phases into a pipeline."""
