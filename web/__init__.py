"""The web page of distributed cron; index.cgi starts it."""
