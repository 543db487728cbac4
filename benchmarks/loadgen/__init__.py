"""An open-loop load generator for a serving cluster, and what it checks answers against."""
