"""Inference over OpenAI-compatible endpoints: an async client, answering in rounds, batches of questions, a server.

::

    batch.py (pacore-rl infer)     server/ (pacore-rl serve)
                \\                    /
                 answering.py: drives synthesis.rounds.ProblemRounds
                          |
                 client.py: replicas, slots, retries
                          |
                 transport.py (httpx) -> chat_stream.py: what one call streams

Nothing here loads an engine.
"""
