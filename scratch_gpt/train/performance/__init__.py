"""What makes a step fast: the choice of attention, compiled blocks, and passes over compiled graphs."""
