"""Readers: from files, folders, tables and Hub datasets to the examples of a task."""
