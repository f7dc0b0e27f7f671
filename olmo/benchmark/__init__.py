"""Speed and memory of dense and pruned models, measured side by side.

``presets``   sizes with random weights, and named sets of measurements
``inputs``    settings of a model, videos with text
``workload``  the stages that run
``clock``     where the time of a run goes; ``stage_clock`` that of loading
``checks``    whether two runs did the same work; ``slow_forms`` they are compared with
``memory``    peak memory of a run
``measure``   the loop over all of it
``output``    table, Markdown and JSON; ``chart`` draws
"""
