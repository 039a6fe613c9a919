"""Three small, complete applications: how to use the cache in front of a database.

database_rows    rows of a table: `@cached`, and an update that ends the row everywhere
sessions         logins: known absence, sliding expiry, a logout that holds on every host
http_responses   an ASGI site: whole responses, ended by address and by tag
"""
