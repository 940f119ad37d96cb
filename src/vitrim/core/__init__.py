"""What every token reduction shares. Imports torch only; names no paper and no model library."""
