"""The numbers of a report, from exit tables."""
