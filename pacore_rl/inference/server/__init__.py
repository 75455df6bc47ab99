"""PaCoRe as a model behind an OpenAI-compatible API.

::

    request -> schemas.py -> chat.py -> answering.Answerer -> the endpoint's rounds
                                |
                                +-> body.py   one JSON object
                                +-> events.py server-sent events: progress, then the closing round as it is written

``app.py`` puts it together: keys, limits, errors, models, health, metrics. ``run.py`` listens.
"""
