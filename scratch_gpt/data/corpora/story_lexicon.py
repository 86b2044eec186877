"""The vocabulary of the built-in stories. No word is in two lists that the grammar allows in the same position."""

HEROES = {
    "f": ("Anna", "Clara", "Emma", "Julia", "Laura", "Maria", "Nina", "Rosa", "Sara", "Vera"),
    "m": ("Ben", "Felix", "Hugo", "Jack", "Karl", "Leo", "Max", "Oscar", "Paul", "Tom"),
}
GENDER = {name: gender for gender, names in HEROES.items() for name in names}
SUBJECT_PRONOUN = {"f": "she", "m": "he"}
POSSESSIVE = {"f": "her", "m": "his"}
REFLEXIVE = {"f": "herself", "m": "himself"}
OBJECT_PRONOUN = {"sg": "it", "pl": "them"}

# Nouns as (singular, plural).
PERSONS = tuple(
    (noun, noun + "s")
    for noun in (
        *("baker", "doctor", "farmer", "gardener", "hunter", "miller", "painter", "pilot"),
        *("sailor", "shepherd", "singer", "soldier", "stranger", "tailor", "teacher", "uncle"),
    )
)
THINGS = (
    *((noun, noun + "s") for noun in ("apple", "ball", "basket", "boat", "book", "candle", "coat", "drum")),
    *((noun, noun + "s") for noun in ("egg", "flute", "hat", "key", "kite", "lamp", "letter", "map")),
    *((noun, noun + "s") for noun in ("rope", "shell", "umbrella", "whistle")),
    *(("box", "boxes"), ("brush", "brushes"), ("glass", "glasses"), ("knife", "knives")),
)
PLACES = ("bridge", "castle", "field", "forest", "garden", "harbour", "market", "mill", "river", "school", "tower")
PREPOSITIONS = ("behind", "in", "near")

PERSON_ADJECTIVES = ("angry", "clever", "kind", "old", "poor", "rich", "tall", "unlucky", "young")
THING_ADJECTIVES = ("blue", "broken", "empty", "green", "heavy", "new", "old", "red", "shiny", "small", "ugly", "white")
STATES = ("afraid", "glad", "happy", "proud", "quiet", "sad", "silent", "surprised")

DETERMINERS = {"sg": ("the", "this", "that", "every"), "pl": ("the", "these", "those", "some", "two", "three")}

# Verbs as (base, third person singular, past).
SEE = (
    ("call", "calls", "called"),
    ("follow", "follows", "followed"),
    ("greet", "greets", "greeted"),
    ("help", "helps", "helped"),
    ("meet", "meets", "met"),
    ("see", "sees", "saw"),
    ("thank", "thanks", "thanked"),
    ("watch", "watches", "watched"),
)
FIND = (
    ("buy", "buys", "bought"),
    ("carry", "carries", "carried"),
    ("clean", "cleans", "cleaned"),
    ("drop", "drops", "dropped"),
    ("find", "finds", "found"),
    ("hide", "hides", "hid"),
    ("sell", "sells", "sold"),
    ("take", "takes", "took"),
)
SING = (
    ("dance", "dances", "danced"),
    ("laugh", "laughs", "laughed"),
    ("sing", "sings", "sang"),
    ("sleep", "sleeps", "slept"),
    ("wait", "waits", "waited"),
    ("walk", "walks", "walked"),
)
SHOW = (("lend", "lends", "lent"), ("offer", "offers", "offered"), ("show", "shows", "showed"))
LIKE = (("admire", "admires", "admired"), ("like", "likes", "liked"), ("want", "wants", "wanted"))
THINK = (
    ("believe", "believes", "believed"),
    ("hear", "hears", "heard"),
    ("hope", "hopes", "hoped"),
    ("say", "says", "said"),
    ("think", "thinks", "thought"),
)
WASH = (("dry", "dries", "dried"), ("praise", "praises", "praised"), ("wash", "washes", "washed"))
HAVE = ("have", "has", "had")
DO = ("do", "does", "did")
BE = {("present", "sg"): "is", ("present", "pl"): "are", ("past", "sg"): "was", ("past", "pl"): "were"}

OPENERS = ("one day", "in the morning", "long ago", "last summer", "before the storm", "on the first day")


def conjugate(verb: tuple[str, str, str], tense: str, number: str) -> str:
    """Return the form of a verb for a tense ("present" or "past") and a number ("sg" or "pl")."""
    base, third_person, past = verb
    if tense == "past":
        return past
    return third_person if number == "sg" else base


def article(word: str) -> str:
    """Return the indefinite article before `word`: "a" or "an"."""
    return "an" if word[0] in "aeiou" else "a"
