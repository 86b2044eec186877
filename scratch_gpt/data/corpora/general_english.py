"""A short sample of general English, to see whether a model that is tuned on something else forgets the language."""

from __future__ import annotations

PARAGRAPHS = (
    "The river rises in the hills to the north of the town and flows south for about eighty miles before it reaches "
    "the sea. For most of the year it is slow and shallow, but in spring, when the snow melts, the lower meadows are "
    "often under water for several weeks. The old mill, which was built in 1790, still stands next to the bridge; "
    "since 2004 it has been a small museum.",
    "Water boils at a lower temperature on a mountain than at sea level, because the pressure of the air is lower "
    "there. At an altitude of three thousand metres, it boils at about ninety degrees Celsius. This is why pasta and "
    "potatoes take longer to cook, even though the water seems to boil just as fast.",
    '"Have you seen my keys?" she asked. "They were on the table this morning." He looked up from his newspaper. "Did '
    'you check the pocket of your coat? You wore it last night." She went into the hall, and a moment later he heard '
    'her laugh. "You were right," she said. "I don\'t know why I never look there first."',
    "The council voted on Tuesday to delay the new tax until next year. Supporters of the plan said that the money was "
    "needed to repair schools and roads, while its opponents argued that many families could not afford to pay more. A "
    "final decision is expected in March, after a public meeting.",
    "To make a simple soup, heat two tablespoons of oil in a large pot and add one chopped onion. Cook it for five "
    "minutes, then add three carrots, two potatoes and a litre of stock. Let everything simmer for twenty minutes, "
    "season it with salt and pepper, and serve it with bread.",
    "If you want to learn a language, it helps to practise for a short time every day instead of a long time once a "
    "week. Read things that interest you, listen to people who speak it well, and do not worry about mistakes. After a "
    "few months, you will understand much more than you expect.",
    "In computer science, an algorithm is a sequence of instructions that solves a problem. A good one is correct, "
    "easy to understand, and fast enough for the size of its input. Sorting a list is a well-known example: some "
    "methods compare every pair of items, while others divide the list into halves, sort each of them, and merge the "
    "results.",
    "My grandfather worked for the railway all his life. He knew the name of every station between the coast and the "
    "capital, and on winter evenings he told us about the night when the train stopped in the snow and the passengers "
    "shared their food until the morning. I was never sure how much of it was true.",
)
