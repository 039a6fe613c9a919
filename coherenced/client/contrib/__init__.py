"""The cache behind other frameworks' own interfaces. Each framework is imported only by its module.

django        `BACKEND = "coherenced.client.contrib.django.CoherencedCache"`
asgi          `ResponseCache(app, cache)`: HTTP responses, by the rules of RFC 9111
dogpile       `region.configure("coherenced", …)`
"""
