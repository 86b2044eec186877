"""Between our models and the rest of the ecosystem: native twins, model directories, the Hub."""
