"""The way to a Redis or Valkey server: the only folder that imports `redis`.

In reading order: `names` (what we keep there), `lua/` and `scripts` (the atomic steps),
`codec` (calls to arguments, replies to answers), `connection` (one connection), `line`
(one that is kept open), `bus` (the subscription), `link` (a lane's way to its server).
`check` looks a server over, `broadcast` invalidates without a daemon.
"""
