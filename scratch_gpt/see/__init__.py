"""`scratch-gpt see`: one self-contained HTML page that runs a model in the browser and shows how it computes.

`page.write_page` writes it. The page's own code is in `web/`, in JavaScript.
"""
