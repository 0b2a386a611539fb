"""The commands themselves: options, reads and writes, exit statuses."""
