"""Tasks: data, model, loss and scores of one kind of problem behind one small interface. Floor 2."""
