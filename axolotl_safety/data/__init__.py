"""Source row to task: rows read, labelled, and turned into token ids."""
