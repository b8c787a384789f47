"""The only place that knows what puppets say: sentences for espeak-ng, and invented languages."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Babble:
    """An invented language: which sounds, how syllables are built, how it is paced."""

    code: str  # BCP 47, private use
    name: str
    onsets: tuple[str, ...]
    vowels: tuple[str, ...]
    codas: tuple[str, ...]
    closed: float  # share of syllables with a coda
    rate: float  # syllables a second
    melody: float  # how much pitch moves, in octaves


INVENTED: tuple[Babble, ...] = (
    Babble(
        code="x-lumi",
        name="Lumi",
        onsets=("l", "m", "n", "w", "b", "j"),
        vowels=("a", "e", "i", "o", "u"),
        codas=("n",),
        closed=0.1,
        rate=4.2,
        melody=0.5,
    ),
    Babble(
        code="x-tako",
        name="Tako",
        onsets=("t", "k", "p", "s", "n", "m", "h"),
        vowels=("a", "i", "u", "o", "e"),
        codas=("n",),
        closed=0.12,
        rate=5.4,
        melody=0.3,
    ),
    Babble(
        code="x-grond",
        name="Grond",
        onsets=("g", "r", "d", "b", "k", "f", "v"),
        vowels=("o", "a", "E", "u"),
        codas=("n", "s", "l", "r", "t"),
        closed=0.5,
        rate=3.8,
        melody=0.28,
    ),
    Babble(
        code="x-shuri",
        name="Shuri",
        onsets=("sh", "s", "z", "r", "j", "d"),
        vowels=("y", "i", "E", "a", "u"),
        codas=("sh", "n"),
        closed=0.25,
        rate=4.6,
        melody=0.4,
    ),
    Babble(
        code="x-hawo",
        name="Hawo",
        onsets=("h", "w", "l", "k", "m", "p"),
        vowels=("a", "o", "u", "e"),
        codas=("l",),
        closed=0.05,
        rate=3.6,
        melody=0.55,
    ),
    Babble(
        code="x-zimba",
        name="Zimba",
        onsets=("z", "b", "d", "m", "n", "g", "w"),
        vowels=("a", "i", "E", "o"),
        codas=("m", "n"),
        closed=0.3,
        rate=4.8,
        melody=0.35,
    ),
)


def syllable(rng: np.random.Generator, language: Babble) -> tuple[str, str, str]:
    """Onset, vowel and coda ("" for none)."""
    pick = lambda sounds: sounds[int(rng.integers(len(sounds)))]
    coda = pick(language.codas) if rng.random() < language.closed else ""
    return pick(language.onsets), pick(language.vowels), coda


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """A language that espeak-ng speaks."""

    code: str
    name: str
    voice: str
    sentences: tuple[str, ...]


SPOKEN: tuple[Spoken, ...] = (
    Spoken(
        code="en",
        name="English",
        voice="en-us",
        sentences=(
            "Good morning, it is lovely to see you again.",
            "Let me show you how this little machine works.",
            "We walked along the river until the sun went down.",
            "My grandmother always put cinnamon in the coffee.",
            "Nobody knows why the blue door was left open.",
            "First you fold the paper, then you count to three.",
            "I have been looking forward to this all week.",
            "The train leaves at nine, so we should hurry.",
            "Honestly, that was the funniest thing I ever heard.",
            "Would you like another piece of apple cake?",
            "There are more stars up there than grains of sand.",
            "Keep your hands warm and your mind open.",
        ),
    ),
    Spoken(
        code="de",
        name="German",
        voice="de",
        sentences=(
            "Guten Morgen, schön, dass du wieder da bist.",
            "Ich zeige dir jetzt, wie die kleine Maschine läuft.",
            "Wir gingen am Fluss entlang, bis die Sonne unterging.",
            "Meine Oma backt am Sonntag immer Apfelkuchen.",
            "Niemand weiß, warum die blaue Tür offen stand.",
            "Zuerst faltest du das Papier, dann zählst du bis drei.",
            "Der Zug fährt um neun, also müssen wir uns beeilen.",
            "Darauf habe ich mich die ganze Woche gefreut.",
        ),
    ),
    Spoken(
        code="fr",
        name="French",
        voice="fr-fr",
        sentences=(
            "Bonjour à tous, je suis ravie de vous revoir.",
            "Je vais vous montrer comment marche cette petite machine.",
            "Nous avons marché le long de la rivière jusqu'au soir.",
            "Ma grand-mère met toujours de la cannelle dans le café.",
            "Personne ne sait pourquoi la porte bleue est ouverte.",
            "D'abord on plie le papier, puis on compte jusqu'à trois.",
            "Le train part à neuf heures, il faut se dépêcher.",
            "Voulez-vous encore un peu de gâteau aux pommes ?",
        ),
    ),
    Spoken(
        code="es",
        name="Spanish",
        voice="es",
        sentences=(
            "Buenos días, me alegra mucho verte otra vez.",
            "Te voy a enseñar cómo funciona esta pequeña máquina.",
            "Caminamos junto al río hasta que se puso el sol.",
            "Mi abuela siempre pone canela en el café.",
            "Nadie sabe por qué quedó abierta la puerta azul.",
            "Primero doblas el papel y luego cuentas hasta tres.",
            "El tren sale a las nueve, tenemos que darnos prisa.",
            "¿Quieres otro trozo de tarta de manzana?",
        ),
    ),
    Spoken(
        code="it",
        name="Italian",
        voice="it",
        sentences=(
            "Buongiorno, che bello rivederti.",
            "Adesso ti mostro come funziona questa piccola macchina.",
            "Abbiamo camminato lungo il fiume fino al tramonto.",
            "Mia nonna mette sempre la cannella nel caffè.",
            "Nessuno sa perché la porta blu era aperta.",
            "Il treno parte alle nove, dobbiamo sbrigarci.",
        ),
    ),
    Spoken(
        code="pt",
        name="Portuguese",
        voice="pt-br",
        sentences=(
            "Bom dia, que bom ver você de novo.",
            "Vou mostrar como funciona esta pequena máquina.",
            "Andamos ao longo do rio até o sol se pôr.",
            "Minha avó sempre põe canela no café.",
            "Ninguém sabe por que a porta azul ficou aberta.",
            "O trem sai às nove, precisamos correr.",
        ),
    ),
    Spoken(
        code="zh",
        name="Mandarin",
        voice="cmn",
        sentences=(
            "早上好，很高兴又见到你。",
            "我来给你看看这台小机器怎么用。",
            "我们沿着河边一直走到太阳下山。",
            "奶奶总是在咖啡里放一点肉桂。",
            "没有人知道蓝色的门为什么开着。",
            "火车九点出发，我们得快一点。",
        ),
    ),
    Spoken(
        code="hi",
        name="Hindi",
        voice="hi",
        sentences=(
            "नमस्ते, आपसे फिर मिलकर बहुत अच्छा लगा।",
            "मैं आपको दिखाता हूँ कि यह छोटी मशीन कैसे चलती है।",
            "हम शाम तक नदी के किनारे चलते रहे।",
            "मेरी दादी हमेशा चाय में इलायची डालती हैं।",
            "ट्रेन नौ बजे जाती है, हमें जल्दी करनी चाहिए।",
        ),
    ),
)
