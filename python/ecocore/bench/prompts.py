"""What is asked: texts that differ from their first word on, so that no server remembers the beginning of one."""

import random
from dataclasses import dataclass
from typing import Final

_COMMON: Final = (
    "about above across after again air all along also always animal answer apple around arm ask away back bad ball bank "
    "bed before begin behind bell best better between big bird black blue boat body book both box boy bread bridge bright "
    "bring brother brown build busy butter buy cake call calm car care carry cat chair change child circle city clean clear "
    "clock close cloud coat cold colour come cook corner count country cow cross cry cup cut dance dark day deep dog door "
    "down draw dream dress drink drive dry each ear early earth east eat egg end enough even evening every eye face fall "
    "far farm fast father feel few field fill find fine fire first fish five floor flower fly follow food foot forest found "
    "four free fresh friend from front fruit full garden gate gave gentle girl give glass gold good grass great green "
    "ground grow half hand happy hard hat hear heart heavy help here high hill hold home horse hot hour house ice idea iron "
    "island join jump just keep key kind king kitchen know lake lamp land large last late laugh lead leaf learn leave left "
    "letter light line lion list little long look lost loud low machine make many map market meet milk mind minute moon "
    "more morning mother mountain mouth move much music name near neck new next night nine north nose now ocean often oil "
    "old only open orange other over page paint paper part pass path pen people piece place plain plant play point pond "
    "poor pull push queen quick quiet rain reach read ready red rest rich ride right ring river road rock roof room root "
    "rope round run salt sand say school sea seat second see seed sell send seven shade shape sharp sheep ship shirt shoe "
    "shop short show sing sister six skin sky sleep slow small smile snow soft some song soon sound south space spoon "
    "spring stand star start stay step stone stop story street"
)
WORDS: Final = tuple(_COMMON.split())


@dataclass(frozen=True, slots=True)
class Prompts:
    """Texts by name: the same name and seed give the same text.

    `words`: how many words each has, unless there is a `text`; that is then asked behind a number of its own.
    """

    seed: int
    words: int
    text: str | None = None

    def named(self, name: str) -> str:
        """The text of a name."""
        rng = random.Random(f"{self.seed}/{name}")  # noqa: S311  # nothing here is secret
        if self.text is not None:
            return f"[{rng.getrandbits(40):010x}] {self.text}"
        return " ".join(rng.choices(WORDS, k=self.words))
