"""The vocabulary of the built-in German and English. Each German word has exactly one translation, and vice versa."""

from __future__ import annotations

from typing import NamedTuple

SINGULAR, PLURAL = "singular", "plural"


class Noun(NamedTuple):
    """A German noun and its translation.

    Attributes:
        gender: "m", "f" or "n".
        singular, plural: the nominative forms.
        english, english_plural: the translation.
        oblique: accusative and dative singular, if they differ from the nominative (some masculine nouns).
    """

    gender: str
    singular: str
    plural: str
    english: str
    english_plural: str
    oblique: str | None = None


class Verb(NamedTuple):
    """A German verb and its translation.

    Attributes:
        prefix: prefix of a separable verb, or "".
        infinitive, third, plural: infinitive, third person singular and plural, without the prefix.
        participle: past participle, with the prefix.
        auxiliary: "hat" or "ist".
        base, english_third, past: base form, third person singular and past of the translation.
        particle: English particle after the verb, or "".
    """

    prefix: str
    infinitive: str
    third: str
    plural: str
    participle: str
    auxiliary: str
    base: str
    english_third: str
    past: str
    particle: str = ""


def _noun(gender: str, german: str, english: str) -> Noun:
    singular, plural, *oblique = german.split("/")
    base, *many = english.split("/")
    return Noun(gender, singular, plural, base, many[0] if many else f"{base}s", oblique[0] if oblique else None)


PERSONS = (
    _noun("m", "Mann/Männer", "man/men"),
    _noun("m", "Lehrer/Lehrer", "teacher"),
    _noun("m", "Bäcker/Bäcker", "baker"),
    _noun("m", "Arzt/Ärzte", "doctor"),
    _noun("m", "Nachbar/Nachbarn/Nachbarn", "neighbour"),
    _noun("m", "Junge/Jungen/Jungen", "boy"),
    _noun("m", "Koch/Köche", "cook"),
    _noun("m", "Bauer/Bauern/Bauern", "farmer"),
    _noun("m", "Onkel/Onkel", "uncle"),
    _noun("m", "Gast/Gäste", "guest"),
    _noun("f", "Frau/Frauen", "woman/women"),
    _noun("f", "Tochter/Töchter", "daughter"),
    _noun("f", "Schwester/Schwestern", "sister"),
    _noun("f", "Köchin/Köchinnen", "chef"),
    _noun("f", "Tante/Tanten", "aunt"),
    _noun("f", "Malerin/Malerinnen", "painter"),
    _noun("f", "Richterin/Richterinnen", "judge"),
    _noun("f", "Sängerin/Sängerinnen", "singer"),
    _noun("n", "Mädchen/Mädchen", "girl"),
    _noun("n", "Kind/Kinder", "child/children"),
    _noun("n", "Baby/Babys", "baby/babies"),
)

# Each may be the head of a compound with a modifier; the head determines gender and plural.
THINGS = (
    _noun("m", "Tisch/Tische", "table"),
    _noun("m", "Stuhl/Stühle", "chair"),
    _noun("m", "Schrank/Schränke", "cupboard"),
    _noun("m", "Koffer/Koffer", "suitcase"),
    _noun("m", "Schlüssel/Schlüssel", "key"),
    _noun("m", "Brief/Briefe", "letter"),
    _noun("m", "Korb/Körbe", "basket"),
    _noun("m", "Ofen/Öfen", "oven"),
    _noun("m", "Wagen/Wagen", "cart"),
    _noun("f", "Lampe/Lampen", "lamp"),
    _noun("f", "Tür/Türen", "door"),
    _noun("f", "Uhr/Uhren", "clock"),
    _noun("f", "Kiste/Kisten", "box/boxes"),
    _noun("f", "Tasche/Taschen", "bag"),
    _noun("f", "Bank/Bänke", "bench/benches"),
    _noun("f", "Maschine/Maschinen", "machine"),
    _noun("f", "Flasche/Flaschen", "bottle"),
    _noun("f", "Leiter/Leitern", "ladder"),
    _noun("n", "Messer/Messer", "knife/knives"),
    _noun("n", "Fenster/Fenster", "window"),
    _noun("n", "Buch/Bücher", "book"),
    _noun("n", "Bild/Bilder", "picture"),
    _noun("n", "Radio/Radios", "radio"),
    _noun("n", "Regal/Regale", "shelf/shelves"),
    _noun("n", "Zelt/Zelte", "tent"),
    _noun("n", "Boot/Boote", "boat"),
)
MODIFIERS = {
    "Holz": "wooden",
    "Garten": "garden",
    "Küchen": "kitchen",
    "Kinder": "children's",
    "Reise": "travel",
    "Metall": "metal",
    "Spielzeug": "toy",
    "Winter": "winter",
}

# Stem and translation. Adjectives whose stem changes, such as "hoch", are omitted.
ADJECTIVES = {
    "alt": "old",
    "neu": "new",
    "klein": "small",
    "schön": "beautiful",
    "schwer": "heavy",
    "rot": "red",
    "grün": "green",
    "billig": "cheap",
    "seltsam": "strange",
    "ehrlich": "honest",
    "müde": "tired",
    "freundlich": "friendly",
}
PERSON_ADJECTIVES = ("alt", "jung", "klein", "schön", "seltsam", "ehrlich", "müde", "freundlich")
THING_ADJECTIVES = ("alt", "neu", "klein", "schön", "schwer", "rot", "grün", "billig", "seltsam")
ADJECTIVES["jung"] = "young"


def _verb(german: str, english: str) -> Verb:
    """Parse the forms of a verb, such as "auf|machen macht machen aufgemacht" and "open opens opened".

    The auxiliary "ist" may follow the participle, and a particle the English forms."""
    whole, third, plural, participle, *auxiliary = german.split()
    prefix, bar, infinitive = whole.rpartition("|")
    base, english_third, past, *particle = english.split()
    return Verb(
        prefix if bar else "",
        infinitive,
        third,
        plural,
        participle,
        auxiliary[0] if auxiliary else "hat",
        base,
        english_third,
        past,
        " ".join(particle),
    )


TRANSITIVE = (
    _verb("kaufen kauft kaufen gekauft", "buy buys bought"),
    _verb("sehen sieht sehen gesehen", "see sees saw"),
    _verb("suchen sucht suchen gesucht", "seek seeks sought"),
    _verb("finden findet finden gefunden", "find finds found"),
    _verb("brauchen braucht brauchen gebraucht", "need needs needed"),
    _verb("reparieren repariert reparieren repariert", "repair repairs repaired"),
    _verb("tragen trägt tragen getragen", "carry carries carried"),
    _verb("putzen putzt putzen geputzt", "clean cleans cleaned"),
    _verb("verlieren verliert verlieren verloren", "lose loses lost"),
    _verb("vergessen vergisst vergessen vergessen", "forget forgets forgot"),
    _verb("auf|machen macht machen aufgemacht", "open opens opened"),
    _verb("zu|machen macht machen zugemacht", "close closes closed"),
    _verb("weg|werfen wirft werfen weggeworfen", "throw throws threw away"),
    _verb("mit|nehmen nimmt nehmen mitgenommen", "take takes took along"),
    _verb("auf|heben hebt heben aufgehoben", "pick picks picked up"),
    _verb("an|schauen schaut schauen angeschaut", "watch watches watched"),
    _verb("ab|holen holt holen abgeholt", "collect collects collected"),
    _verb("aus|leihen leiht leihen ausgeliehen", "borrow borrows borrowed"),
)
DATIVE = (
    _verb("helfen hilft helfen geholfen", "help helps helped"),
    _verb("danken dankt danken gedankt", "thank thanks thanked"),
    _verb("folgen folgt folgen gefolgt ist", "follow follows followed"),
    _verb("antworten antwortet antworten geantwortet", "answer answers answered"),
    _verb("zu|hören hört hören zugehört", "listen listens listened to"),
    _verb("nach|laufen läuft laufen nachgelaufen ist", "run runs ran after"),
)
DITRANSITIVE = (
    _verb("geben gibt geben gegeben", "give gives gave"),
    _verb("zeigen zeigt zeigen gezeigt", "show shows showed"),
    _verb("schicken schickt schicken geschickt", "send sends sent"),
    _verb("zurück|bringen bringt bringen zurückgebracht", "return returns returned"),
)
INTRANSITIVE = (
    _verb("schlafen schläft schlafen geschlafen", "sleep sleeps slept"),
    _verb("lachen lacht lachen gelacht", "laugh laughs laughed"),
    _verb("arbeiten arbeitet arbeiten gearbeitet", "work works worked"),
    _verb("warten wartet warten gewartet", "wait waits waited"),
    _verb("singen singt singen gesungen", "sing sings sang"),
    _verb("auf|stehen steht stehen aufgestanden ist", "get gets got up"),
    _verb("ein|schlafen schläft schlafen eingeschlafen ist", "fall falls fell asleep"),
    _verb("an|kommen kommt kommen angekommen ist", "arrive arrives arrived"),
    _verb("weg|gehen geht gehen weggegangen ist", "leave leaves left"),
)
SAYING = (
    _verb("sagen sagt sagen gesagt", "say says said"),
    _verb("glauben glaubt glauben geglaubt", "believe believes believed"),
    _verb("hoffen hofft hoffen gehofft", "hope hopes hoped"),
)
# Third person singular and plural, and their translations, which precede the base form.
MODALS = (
    ("will", "wollen", "wants to", "want to"),
    ("kann", "können", "can", "can"),
    ("muss", "müssen", "must", "must"),
    ("soll", "sollen", "should", "should"),
)

PLACES = (
    ("in", _noun("f", "Küche/Küchen", "kitchen"), "in"),
    ("in", _noun("m", "Garten/Gärten", "garden"), "in"),
    ("auf", _noun("m", "Markt/Märkte", "market"), "at"),
    ("vor", _noun("n", "Haus/Häuser", "house"), "in front of"),
    ("hinter", _noun("f", "Schule/Schulen", "school"), "behind"),
    ("neben", _noun("m", "Bahnhof/Bahnhöfe", "station"), "next to"),
    ("unter", _noun("f", "Brücke/Brücken", "bridge"), "under"),
)
CONTRACTIONS = {"in dem": "im"}
TIMES = {
    "present": {"heute": "today", "jetzt": "now", "jeden Tag": "every day", "am Abend": "in the evening"},
    "past": {"gestern": "yesterday", "letzte Woche": "last week", "am Morgen": "in the morning"},
}
LINKS = {"weil": "because", "obwohl": "although", "während": "while", "bevor": "before"}

# Determiners: German stem, declension, English singular and plural (None: no such form).
DETERMINERS = (
    ("d", "definite", "the", "the"),
    ("dies", "definite", "this", "these"),
    ("ein", "mixed", "a", None),
    ("mein", "mixed", "my", "my"),
    ("unser", "mixed", "our", "our"),
    ("zwei", "numeral", None, "two"),
)
