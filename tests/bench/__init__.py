"""The benchmark: what distributed cron takes for its work, beside what limits it."""
