"""How it travels: subjects, streams, the connection, the embedded server, the spool, key-value state."""
