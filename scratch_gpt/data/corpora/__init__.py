"""Built-in corpora: stories, questions about them, and German with English translations."""
