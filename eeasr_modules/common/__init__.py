"""What every room may import: nothing of ours in it, no torch."""
