"""Objects seen to objects wanted. Pure: nothing here talks to an API server."""
