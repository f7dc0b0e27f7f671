"""Speed and memory of dense and pruned models, measured side by side.

``plan``     sizes with random weights, settings of a model, named sets of measurements
``work``     videos with text, the stages that run on them, and what these take at least
``stock``    the same in transformers
``checks``   whether two runs did the same work
``clock``    where the time of a run goes; ``memory`` its peak
``measure``  the loop over all of it
``results``  one line of the table; ``report`` all of it, as Markdown and JSON; ``chart`` draws
"""
