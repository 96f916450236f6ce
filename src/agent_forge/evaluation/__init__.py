"""What a model can do, measured: bits per byte, tasks, probes, retention, and how sure we are."""
