"""Numbers that describe an array: sums that add, singular values on demand, and which of them are shown."""
