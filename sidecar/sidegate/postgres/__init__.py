"""The PostgreSQL gate. `session` is its sans-IO core, `relay` the asyncio shell around it; one file a role, as docs/architecture.md lists.

Message and state names are those of the PostgreSQL documentation, chapter "Frontend/Backend Protocol"; `Frontend` is here the client,
`Backend` the target.
"""
