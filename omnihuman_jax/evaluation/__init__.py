"""Numbers that others can repeat: metrics of videos, their intervals, tables of several runs."""
