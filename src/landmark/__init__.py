"""What the steps share: one idea per file."""
