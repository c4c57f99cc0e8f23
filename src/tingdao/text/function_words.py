"""Little words by language, which tell whether a sentence can be cut beside them.

open: words that no sentence ends with, so after them it goes on: articles, conjunctions, possessives, and in some
languages prepositions.
leaning: words that seldom end a sentence, so after them and without a real pause it goes on.
clinging: words that no sentence begins with.
inner: words that far more often stand within a sentence than at its beginning: prepositions, conjunctions, copulas.
lower: further words that have a capital only where they begin a sentence. Names are not among them, nor is anything
that German writes with a capital within a sentence, nor the English I.

Sources: the closed word classes as grammars of each language list them; what can stand at a sentence's end in speech
was left out.
"""

from __future__ import annotations

from dataclasses import dataclass


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


_NONE: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class FunctionWords:
    """The little words of one language, in lower case."""

    open: frozenset[str] = _NONE
    leaning: frozenset[str] = _NONE
    clinging: frozenset[str] = _NONE
    inner: frozenset[str] = _NONE
    lower: frozenset[str] = _NONE

    def lowers(self, word: str) -> bool:
        """Whether a word has a capital only where it begins a sentence."""
        return any(word in words for words in (self.open, self.leaning, self.clinging, self.inner, self.lower))


NO_WORDS = FunctionWords()

BY_LANGUAGE: dict[str, FunctionWords] = {
    "en": FunctionWords(
        open=_set("the a an and or but nor because although unless whereas my your our their every via per than"),
        leaning=_set("of to from with into onto upon for by at as"),
        clinging=_set("than of"),
        inner=_set(
            "of to from with into onto upon for by at as and or nor than that which whose in on under over "
            "between through during without within against about around until since because is are was were be "
            "been has have had"
        ),
        lower=_set(
            "in on under over between through after before since until during without within against about around "
            "is are was were be been has have had do does did can could would should must might not no yes "
            "he she it we they you him her us them his its this that these those who whom whose which what when where "
            "why how if so then there here also just only even still very too again now once while though however "
            "some any many much more most all both each such other another"
        ),
    ),
    "de": FunctionWords(
        open=_set(
            "des ein mein dein sein unser und oder aber weil dass wenn ob obwohl sowie vom zum zur im ins am beim für "
            "meinem deinem einem einer eines meines seines"
        ),
        leaning=_set(
            "der die das den dem eine einen kein keine keinen meine meinen seine seinen unsere von bei nach in seit "
            "zwischen unter über durch gegen ohne wegen trotz denn"
        ),
        inner=_set(
            "und oder sowie dass weil von bei nach in seit zwischen unter über durch gegen ohne wegen an auf "
            "aus mit um vor zu als wie bis im am vom zum zur beim ist sind war waren hat haben wird werden"
        ),
        lower=_set(
            "an auf aus mit um vor zu als wie bis ich du er es wir ihr mich dich uns euch ihn ihm man sich ist sind "
            "war waren hat haben hatte wird werden wurde kann können muss soll will nicht nur auch noch schon sehr so "
            "da dann damit dort hier jetzt doch mal wo was wer wann warum welche jeder jede jedes dieser diese dieses "
            "diesen alle"
        ),
    ),
    "fr": FunctionWords(
        open=_set(
            "le la les un des du de à au aux et ou mais parce que mon ma mes ton ta tes ses notre nos cet chaque"
        ),
        leaning=_set(
            "une dans chez par vers sur sous en son sa ce cette ces votre vos leur leurs sans avec pour entre dont qui "
            "je tu il on"
        ),
        inner=_set(
            "et ou que qui dont de du des à au aux dans chez par vers sur sous en avec pour entre sans comme "
            "depuis pendant est sont était parce"
        ),
        lower=_set(
            "nous vous ils elle elles me te se lui y ne pas plus moins très bien est sont était a ont avait avoir être "
            "quand comme où comment pourquoi alors aussi puis depuis pendant après avant tout tous toute toutes c'est "
            "car donc si cela ça ceci là ici même encore déjà toujours jamais d'un d'une qu'il qu'elle qu'on"
        ),
    ),
    "es": FunctionWords(
        open=_set("el los las de del a al y e o u pero porque aunque mi tu su mis tus sus cada en para hacia desde"),
        leaning=_set("la un una unos unas con sin por según sobre entre que si como cuando donde es son muy nuestro"),
        inner=_set(
            "y e o u que de del a al en para hacia desde con sin por según sobre entre como porque donde es son "
            "era eran también"
        ),
        lower=_set(
            "yo tú él ella nosotros ellos ellas me te se nos lo le les no ni ya también más menos está están era "
            "eran fue ha han había este esta estos estas ese esa eso esto aquí allí entonces después antes mientras "
            "todo toda todos todas otro otra qué quién cómo nuestra nuestros nuestras"
        ),
    ),
    "it": FunctionWords(
        open=_set(
            "il i gli un di del dello della dei degli delle al allo alla ai agli alle dal dalla nel nella nei nelle "
            "sul sulla per tra fra e ed o ma ogni"
        ),
        leaning=_set("lo la le uno una a da in con su che se perché mio mia tuo tua suo sua come quando dove è sono"),
        inner=_set(
            "e ed o che di del dello della dei degli delle a al allo alla ai da dal dalla in nel nella con su "
            "sul sulla per tra fra come dove è sono era perché"
        ),
        lower=_set(
            "io tu lui lei noi voi loro mi ti si ci vi non anche più meno molto era erano ha hanno aveva questo questa "
            "questi queste quello quella qui là poi dopo prima mentre tutto tutta tutti tutte cosa chi"
        ),
    ),
    "pt": FunctionWords(
        open=_set("o os as de do da dos das em no na nos nas ao aos à às e ou mas cada pelo pela desde"),
        leaning=_set(
            "a um uma uns umas porque que se meu minha seu sua nosso nossa com sem por para sobre entre como quando "
            "onde é são"
        ),
        inner=_set(
            "e ou que de do da dos das em no na nos nas ao aos à às com sem por para pelo pela sobre entre "
            "desde como porque é são era também"
        ),
        lower=_set(
            "eu tu ele ela nós eles elas me te lhe não nem também já mais menos muito está estão era eram foi tem têm "
            "tinha este esta esse essa isso isto aquele aquela aqui ali então depois antes enquanto todo toda todos "
            "todas"
        ),
    ),
    "ru": FunctionWords(
        open=_set("и а но или в во на с со к ко о об от из у под над для через между чтобы"),
        leaning=_set("что если до за при без про который которая которые как"),
        inner=_set(
            "и или что чтобы в во на с со к ко о об от из у под над для через между до за при без про который "
            "которая которые как также"
        ),
        lower=_set(
            "я ты он она оно мы вы они мне меня тебе нам нас вам вас им его её их не ни да нет же ли бы уже ещё только "
            "также тоже очень это этот эта эти тот та те мой моя наш наша был была было были есть будет когда где куда "
            "почему потом потому так там тут здесь после перед все всё весь"
        ),
    ),
}
