"""From the figures of a run to claims, tables and plots: pure functions of its JSON document."""
