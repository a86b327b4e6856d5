"""What is known of every family of models: one record and one geometry each."""
