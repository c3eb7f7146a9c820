r"""Words that make a right answer wrong: denials, hedges, second values, ranges, multipliers, in several languages.

Every phrase holds the gold ({g}), most a second number ({w}: from 2 to 97, at least 1 away from the gold's size and from twice that).
The condition beside a table says for which golds its phrases are wrong: "any" for denials and hedges, "number" for what could
be true of a set, "nonzero" where 0 would stay 0, "large" where 1 would stay 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from random import Random

from tests.rewards.false_accepts.cases import Case, Gold, Mutation, other_number, plain_number, stripped

ANY, NUMBER, NONZERO, LARGE = "any", "number", "nonzero", "large"

#: kind -> (condition on the gold, phrases separated by " | ")
TABLES: dict[str, tuple[str, str]] = {
    "denial": (ANY, r"""
        not {g} | {g} is wrong | {g} is incorrect | {g} is not correct | {g} is false | not equal to {g} | \neq {g} | \ne {g} | \text{not } {g}
        | it is not {g} | anything but {g} | {g} is not the answer | {g} cannot be right | never {g} | all except {g} | the answer is not {g}
        | {g} (wrong) | {g}? No. | {g}, no | {g} is excluded | other than {g} | isn't {g} | != {g} | ≠ {g} | {g} \text{ is wrong} | {g} is not right
        | everything except {g} | we reject {g} | {g} is ruled out | {g} is impossible | {g} is not a solution | \text{not equal to } {g}
        | far from {g} | {g} would be wrong | not quite {g} | neither {g} | ~{g} is wrong | {g}: wrong | {g} - incorrect | \lnot {g} | \not= {g}
        | {g} does not work | the answer isn't {g} | the answer can't be {g} | definitely not {g} | \text{The answer is not } {g}.
        | {g} was wrong | {g} fails | {g} is an extraneous solution | $\neq {g}$ | it can never be {g} | {g} invalid | {g} rejected | {g} eliminated | {g} contradicts | {g} mistaken | {g} erroneous | {g} nope | {g} disproved | {g} excepted
        | {g} is too small | {g} too large | {g} too many | {g} omitted | {g} does not satisfy it | {g} diverges | reject {g} | {g} untrue | not even {g} | no longer {g} | {g} \text{ (rejected)}"""),
    "hedge": (ANY, r"""
        maybe {g} | perhaps {g} | possibly {g} | probably {g} | might be {g} | could be {g} | {g} maybe | {g}, maybe | {g} or not
        | {g} or something else | {g} if I am right | {g} perhaps | it might be {g} | the answer may be {g} | \text{maybe } {g} | {g} or something
        | I am not sure, {g} | not sure: {g} | {g} or so I guess | {g}, but I doubt it | either {g} or something else | {g} \text{ or not}
        | {g} (not sure) | unless I am wrong, {g} | any of {g} | {g} or any other number | {g} or none | {g} unless it is not | if anything, {g}
        | {g}, possibly | {g} probably | it could be {g} | {g} presumably | {g} supposedly | {g} hopefully | {g} allegedly | {g} unlikely | {g} doubtful | {g} unsure | {g} guessed
        | presumably {g} | hopefully {g} | {g} unverified | {g} conceivably | {g} I suppose | supposedly {g} | \text{possibly } {g} | {g} \text{ perhaps} | I can't say whether it is {g}
        | {g} or anything | {g} or undefined | {g} or no solution | undefined or {g} | cannot be determined, maybe {g}"""),
    "alternative": (NUMBER, r"""
        {g} or {w} | {w} or {g} | either {g} or {w} | {g} and {w} | {w} and {g} | {g}; {w} | {g}, {w} | {w}, {g} | {g} \text{ or } {w}
        | {w} \text{ or } {g} | {g} \lor {w} | {g} \text{ and } {w} | {w} instead of {g} | {w}, not {g} | {w} rather than {g} | {g} vs {w}
        | {g} {w} | {g} then {w} | first {g}, then {w} | {g} as well as {w} | {g} but also {w} | ({g} or {w}) | {g} \quad {w} | {g} (or {w})
        | {g} & {w} | both {g} and {w} | {g} or maybe {w} | x or {g} | {g} or x | {w} or {g} or 101 | {g}\text{ or }{w} | {g} xor {w}
        | {g} nor {w} | {g} OR {w} | {g} AND {w} | {g} and/or {w} | x={g} or x={w} | x = {g} and x = {w} | x={g}, x={w} | one of {g} and {w}
        | neither {g} nor {w} | {w} \text{ and } {g} | {g} else {w} | {g} versus {w} | {g} otherwise {w} | \{{g}, {w}\} | ({g}, {w}) | [{g}, {w}]
        | {g} followed by {w} | {g} and not {w} | {g} \vee {w} | {g} \wedge {w} | {g} \cup {w}"""),
    "range": (NUMBER, r"""
        {g} to {w} | {w} to {g} | from {g} to {w} | between {g} and {w} | {g}-{w} | {g}–{w} | {g}—{w} | {g}\sim{w} | {g}~{w} | {g}..{w} | {g}...{w}
        | {g}, \ldots, {w} | at least {g} | at most {g} | more than {g} | less than {g} | fewer than {g} | over {g} | under {g} | up to {g}
        | no more than {g} | not less than {g} | >{g} | <{g} | \geq {g} | \le {g} | ≥{g} | ≤ {g} | {g} or more | {g} or less | {g}+ | {g} and above
        | {g} at most | above {g} | below {g} | x > {g} | x \ge {g} | {g} < x | {g} < {w} | {g} > {w} | {g} \text{ or more} | \text{at least } {g}
        | {g} through {w} | {g} until {w} | greater than {g} | {g} \text{ to } {w} | {g} or fewer | {g} \pm {w} | between {w} and {g} | {g} up to {w}
        | {g} or higher | {g} minimum | {g} maximum | {g} upwards | {g} onwards | {g} plus | {g} beyond | {g} exceeded | exceeding {g} | minimum {g} | {g} \leq x \leq {w} | minimum {g}, maximum {w} | within {w} of {g} | {g} and up | {g} and more | {g} \to {w} | {g} and below"""),
    "appended value": (NUMBER, r"""
        {g} = {w} | {w} = {g} | {g} \approx {w} | {g} + {w} | {g} - {w} | {g} plus {w} | {g} minus {w} | {g} \Rightarrow {w} | {g}_{w} , {w} | {g} (approximately {w})
        | {g} \neq {w} | {g} , {w} , 101 | {g} ({w}) | ({g}) ({w} + 1) , 3 | {g} x + {w} | x + {g} | {g} + x | x - {g} | {g}: {w}, 3 | {g} \text{ plus } {w}
        | {g} R {w} | {g} remainder {w} | {g} r {w} | {g} \text{ R } {w} | {g} h {w} min | {g} ft {w} in | {g} + {w} i | {g} i + {w} | {g} + \sqrt{{w}}
        | {g}, y={w} | x={g}, y={w} | \begin{pmatrix} {g} \\ {w} \end{pmatrix} | {g} \text{ remainder } {w} | {g} hours {w} minutes | {g} and {w}/100
        | {g} with remainder {w} | {g} \ldots {w} | {g} = {w} = {g} | {g} = x = {w} | {g} \equiv {w} | {g} plus or minus {w}"""),
    "multiplied": (NONZERO, r"""
        {g} dozen | {g} hundred | {g} thousand | {g} million | {g} billion | {g} trillion | {g} score | {g} gross | {g} lakh | {g} crore | {g}k | half of {g}
        | twice {g} | double {g} | triple {g} | negative {g} | minus {g} | {g} thirds | {g} fifths | {g} tenths | {g} hundredths | half {g} | {g} \text{ million}
        | {g} \text{ dozen} | \text{minus } {g} | {g} times {w} | {g} / {w} | {g} \times {w} | {g} \cdot {w} | {g}({w}) | {g} \div {w} | {g} divided by {w}
        | {g} x | x{g} | {g}y | {g} \pi | {g} e | {g} i | {g} \times 10^{2} | {g} \cdot 10^{-1} | \frac{{g}}{{w}} | {w} \cdot {g} | -({g}) | -{g} | \pm {g}
        | \sqrt{2} \cdot {g} | 2x = {g} | x/2 = {g} | -x = {g} | {g} out of {w} | {g} in {w} | {g} per {w} | {g} for every {w} | {g} in every {w}
        | {g} : {w} | {g} of {w} | {w} of {g} | {w} times {g} | {g} by {w} | the negative of {g} | one half of {g} | the product of {g} and {w} | a third of {g} | twice {g}
        | the opposite of {g} | {w}\% of {g} | {g} \mu | {g} n | {g}a | {g} ab | {g} xy | {g} doubled | {g} inverted | {g} reciprocal | {g} inverse | {g} negated | {g} quadrupled | {g} tenfold | {g} millionths | {g} twelfths | {g} sixteenths | {g} twentieths | {g} billionths | {g} ten-thousandths | {g} thousandfold | {g} dozens | {g} mega | {g} hundredfold | ten times {g} | {g} myriad"""),
    "inside a name": (NUMBER, r"""
        x_{{g}} | a_{{g}} | S_{{g}} | x^{{g}} | f({g}) | P({g}) | \angle {g} x | \sqrt[{{g}}]{x} | \log_{2} ({g} x + {w}) | \sum_{k=1}^{{g}} k^{{w}} + x | \frac{x}{{g}} + 1
        | C_{{g}} + {w} | x \in \{{g}, {w}\} | x \notin \{{g}\} | \mathbb{R} \setminus \{{g}\} | x \in [{g}, \infty) | \{x : x > {g}\} | \{x \mid x \neq {g}\} | (-\infty, {g})
        | [{g}, \infty) | {g} less than {w} | {g} more than {w} | {g} fewer than {w} | {w} less than {g} | {w} more than {g} | {g} away from {w} | {g} short of {w}
        | {w} short of {g} | {g} below {w} | increase by {g} from {w} | {w} increased by {g} | {w} decreased by {g} | multiple of {g} | multiples of {g} | divisible by {g}
        | a factor of {g} | the {g}th power of {w} | the sum of {g} and {w} | closer to {g} than to {w} | rounds to {w}, not {g}
        | x \equiv {g} \pmod{{w}} or x = 0 | x \to {g} or {w} | \lim_{x \to {g}} x^2 + x + 1 | even numbers except {g}"""),
    "no value": (NUMBER, r"""
        no solution, not {g} | undefined at {g} | \emptyset, or {g} | infinitely many, {g} among them | does not exist ({g} is excluded) | all real numbers except {g}
        | none, since {g} is extraneous | {g} solutions do not exist | cannot be {g}; undefined | no value, {g} fails | every number but {g} | \text{none}, {g}
        | not defined for {g} | {g} is no solution | there is no {g} | there are no {g} | \text{undefined at } {g} | no real {g} | impossible: {g} | {g} has no solution
        | 无解，{g}舍去 | {g}不存在 | 没有{g} | sin solución, no {g} | keine Lösung, nicht {g} | {g} existiert nicht | aucun {g} | {g} no existe"""),
    "powers and functions": (LARGE, r"""
        {g} squared | {g} cubed | square root of {g} | the square of {g} | \sqrt{{g}} | ({g})^2 | {g} factorial | x^2 = {g} | \sqrt{x} = {g} | 1/x = {g}
        | \frac{1}{{g}} | \log {g} | \ln({g}) | \sin({g}) | {g} to the power of {w} | the reciprocal of {g} | ({g})^{{w}} | e^{{g}} | log of {g}
        | \sqrt[3]{{g}} | 2^{{g}} | square of {g} | the cube of {g} | sqrt({g}) | 1/({g}) | ({g})^{-1} | one over {g} | {g}分之一 | {g}的平方 | {g} al cuadrado | {g} au carré | {g} hoch {w} | {g}の2乗"""),
    "language, denial": (ANY, r"""
        不是{g} | 不是 {g} | {g} 不对 | {g}是错的 | 不等于{g} | 答案不是{g} | 并非{g} | {g}错误 | 非{g} | no es {g} | {g} es incorrecto | {g} no es correcto | la respuesta no es {g}
        | nunca {g} | nicht {g} | {g} ist falsch | {g} ist nicht richtig | die Antwort ist nicht {g} | kein {g} | pas {g} | {g} est faux | ce n'est pas {g} | n'est pas {g}
        | não é {g} | {g} está errado | non è {g} | {g} è sbagliato | не {g} | {g} неверно | {g}ではない | {g}は間違い | {g}が아니다 | {g}은 틀렸다 | ليس {g} | niet {g} | inte {g}
        | {g} es falso | excepto {g} | außer {g} | sauf {g} | 除了{g} | 除{g}以外 | 絕不是{g} | 這不是{g} | 以外 {g} | {g} değil | nie {g}"""),
    "language, hedge": (ANY, r"""
        可能是{g} | 也许{g} | 也许是 {g} | 或许{g} | 大概不是{g} | 不确定，{g} | {g}吧，不确定 | tal vez {g} | quizás {g} | quizá {g} | posiblemente {g} | puede ser {g}
        | vielleicht {g} | möglicherweise {g} | {g} oder nicht | wahrscheinlich {g} | peut-être {g} | {g} ou pas | possiblement {g} | talvez {g} | forse {g} | возможно {g}
        | может быть {g} | たぶん{g} | おそらく{g} | 아마 {g} | ربما {g} | misschien {g} | kanske {g} | {g} o no | 可能{g} | 恐怕是{g} | {g}或者不是 | {g} o algo | 猜{g}或别的"""),
    "language, alternative": (NUMBER, r"""
        {g}或{w} | {g} 或 {w} | {w}或{g} | {g}或者{w} | {g}和{w} | {g} 和 {w} | {g}、{w} | {g}，{w} | {g}与{w} | {g}及{w} | {g} o {w} | {w} o {g} | {g} y {w} | {g} oder {w} | {w} oder {g}
        | {g} und {w} | {g} ou {w} | {w} ou {g} | {g} et {w} | {g} e {w}, 3 | {g} или {w} | {g} и {w} | {g}または{w} | {g}と{w} | {g} 또는 {w} | {g} أو {w} | {g} of {w}, 3
        | {g} eller {w} | {g} och {w} | {g} veya {w} | entweder {g} oder {w} | soit {g} soit {w} | o {g} o {w} | sowohl {g} als auch {w} | {g} lub {w} | {g}还是{w}"""),
    "language, range": (NUMBER, r"""
        {g}到{w} | {g} 到 {w} | {g}至{w} | 从{g}到{w} | 大于{g} | 小于{g} | 至少{g} | 至多{g} | 超过{g} | 不少于{g} | {g}以上 | {g}以下 | {g}多 | {g} a {w} | de {g} a {w} | entre {g} y {w}
        | mayor que {g} | menor que {g} | al menos {g} | más de {g} | menos de {g} | {g} bis {w} | von {g} bis {w} | zwischen {g} und {w} | mindestens {g} | höchstens {g}
        | mehr als {g} | weniger als {g} | größer als {g} | kleiner als {g} | {g} à {w} | de {g} à {w} | entre {g} et {w} | au moins {g} | plus de {g} | moins de {g} | больше {g} | меньше {g}
        | не менее {g} | от {g} до {w} | {g}から{w} | {g}より大きい | {g} 이상 | {g}から{w}まで | {g} o más | {g} oder mehr | {g} ou plus | 大於{g} | 介于{g}和{w}之间"""),
    "language, multiplied": (NONZERO, r"""
        {g}万 | {g}亿 | {g}千 | {g}百 | {g}億 | {g}萬 | {g}百万 | {g} mil | {g} millones | {g} Millionen | {g} Tausend | {g} tausend | {g} mille | {g} millions | {g} тысяч | {g} docenas
        | {g} Dutzend | {g} douzaines | mitad de {g} | el doble de {g} | {g}的一半 | {g}的两倍 | 两倍{g} | menos {g} | 负{g} | 負{g} | moins {g} | минус {g} | マイナス{g}
        | {g} cientos | {g} Hundert | {g} milliards | {g} Prozent von {w} | {g}の半分 | {g}倍{w} | {g} por {w} | {g} mal {w} | {g} fois {w} | {g}乘以{w} | {g}除以{w} | {g} geteilt durch {w}
        | {g} entre {w} | {g}乘{w} | {g}加{w} | {g} más {w} | {g} dividido por {w}"""),
}  # fmt: skip

#: A gold that itself denies, joins or names: a phrase around it may say anything.
_SAYS_MORE = re.compile(
    r"(?i)(?<![a-z])(?:or|and|no|not|none|neither|never|any|all|does|undefined|empty|if|otherwise|max|min)(?![a-z])|\\ne|\\pm|\\mp|\\begin"
)


def phrases(kind: str) -> list[str]:
    """The phrases of a table."""
    return [" ".join(part.split()) for part in re.split(r"\s\|\s", TABLES[kind][1].strip())]


def fits(condition: str, gold: str) -> bool:
    """Whether the phrases under a condition are wrong for this gold."""
    if condition == ANY:
        return len(gold) <= 60 and not _SAYS_MORE.search(gold) and gold.strip() != ""
    value = plain_number(gold)
    if value is None or condition == NUMBER:
        return value is not None
    return value != 0 and (condition == NONZERO or abs(value) >= 3)


def answers(kind: str, text: str, rng: Random) -> list[str]:
    """The phrases of a table around a gold; [] when they are not wrong for it."""
    if not fits(TABLES[kind][0], text):
        return []
    value, found = plain_number(text), []
    for phrase in phrases(kind):
        if phrase == "{g}({w})" and "." in text:
            continue  # 0.5(3) writes a repeating decimal
        other = str(other_number(value, rng)) if value is not None else "7919"
        found.append(phrase.replace("{g}", text).replace("{w}", other))
    return found


def worded(kind: str) -> Mutation:
    """The mutation of one table."""

    def mutate(gold: Gold, rng: Random) -> Iterator[Case]:
        if gold.verifier == "math":
            yield from (Case(kind, gold.text, answer) for answer in answers(kind, stripped(gold.text), rng))

    return mutate
