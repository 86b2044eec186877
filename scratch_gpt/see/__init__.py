"""The page that shows a model thinking: one self-contained HTML file that runs a model in the browser."""
