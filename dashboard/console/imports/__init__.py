"""Lists of plans and prices read from files, shown row by row, and written when an operator confirms what they saw."""
