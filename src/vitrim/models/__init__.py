"""Models that ship with vitrim."""
