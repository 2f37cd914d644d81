"""Attacks on what the program promises: real workers, real servers, and a checker."""
