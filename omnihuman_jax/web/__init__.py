"""`omnihuman serve`: a web page that makes videos, one at a time, for whoever may reach it."""
