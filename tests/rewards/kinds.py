"""Pairs of (gold, answer) by the kinds of fault that a reader of mathematics falls into, beside those of pairs.py.

WRONG: kinds in which something that is no equal was once paid. RIGHT: kinds in which an equal was once refused. A row is
(gold, right answers, wrong answers), so that every kind is held from both sides. CHOICE, NUMERIC, TEXT: for the other verifiers.
"""

from __future__ import annotations

Row = tuple[str, list[str], list[str]]

WRONG: dict[str, list[Row]] = {
    "words between numbers": [
        ("5 or 14", ["14 or 5", "5, 14", "x = 5 or x = 14"], ["7 or 10", "2 or 35", "70", "5", "14", "5 or 15", "10 or 7", "5 to 14"]),
        ("y = 4 or 9", ["9 or 4", "y = 4 or y = 9"], ["y = 6 or 6", "y = 3 or 12", "y = 2 or 18"]),
        ("3 and 20", ["20 and 3"], ["4 and 15", "5 and 12", "60", "23"]),
        ("6 to 35", ["6 to 35", "from 6 to 35"], ["35 to 6", "5 to 42", "7 to 30", "12 to 70", "6"]),
        ("between 4 and 18", ["between 4 and 18"], ["between 6 and 12", "between 18 and 4", "between 8 and 9"]),
        ("2 in 15", ["2 in 15", "2 out of 15", "2/15"], ["15 in 2", "3 in 10", "5 in 6", "1 in 30", "2"]),
        ("7 out of 30", ["7 out of 30"], ["30 out of 7", "6 out of 35", "10 out of 21", "14 out of 15"]),
        ("8 by 15", ["8 by 15", "8 x 15"], ["15 by 8", "10 by 12", "6 by 20", "120"]),
        ("8 cm by 15 cm", ["8 cm by 15 cm"], ["10 cm by 12 cm", "15 cm by 8 cm", "8 cm by 15 m"]),
        ("9 times 14", ["9 times 14"], ["7 times 18", "6 times 21", "14 times 9"]),
        ("12 per 35", ["12 per 35"], ["10 per 42", "35 per 12", "7 per 60"]),
        ("4 March 2015", ["4 March 2015"], ["5 March 1612", "2 March 4030", "2015 March 4"]),
        ("8 \\text{ or } 9", ["9 \\text{ or } 8"], ["6 \\text{ or } 12", "2 \\text{ or } 36"]),
        ("4 und 15", ["15 und 4"], ["5 und 12", "6 und 10"]), ("4 o 15", ["4 o 15"], ["5 o 12", "6 o 10"]), ("4 et 15", ["15 et 4"], ["5 et 12"]),
    ],
    "zero": [
        ("0", ["0", "0.0", "-0", "zero", "x = 0", "0 cm"],
         ["0 or 8", "8 or 0", "0 and 3", "x or 0", "0 or x", "not 0", "0x", "0 xy", "0 maybe", "0 oder 4", "0 ou 4", "0 o 4", "0 y 4", "pas 0", "nicht 0",
          "不是0", "0 to 6", "0 R 6", "0 h 6 min", "0 by 6", "6 times 0", "0 times 6", "either 0 or 6", "0 vs 6", "0?", "is it 0?"]),
        ("0^\\circ", ["0°", "0"], ["0^\\circ or 180^\\circ", "0^\\circ and 45^\\circ"]),
        ("0 or 7", ["7 or 0", "0, 7"], ["0", "7", "0 or 8", "5 or 0"]),
        ("(0, 4)", ["(0,4)"], ["(0 or 2, 4)", "(0 or 4, 4)", "(0, 4 or 5)"]),
        ("0, 3", ["3, 0"], ["0 or 4", "0 and 9", "0"]),
    ],
    "compound measures": [
        ("4 h 15 min", ["4 hours 15 minutes", "4h 15min", "4h15m", "255 min", "4.25 hours", "4 hours and 15 minutes"],
         ["3 h 20 min", "5 h 12 min", "15 h 4 min", "4 min 15 h", "60", "4 h", "4.15 hours", "255", "4 h 51 min"]),
        ("6 ft 2 in", ["6 feet 2 inches", "74 inches", "6' 2\"", "6'2''"], ["2 ft 6 in", "4 ft 3 in", "3 ft 4 in", "6 in 2 ft", "6.2 ft", "12"]),
        ("2 m 30 cm", ["2.3 m", "230 cm"], ["3 m 20 cm", "30 m 2 cm", "6 m 10 cm"]),
        ("9 lb 4 oz", ["148 oz", "9 pounds 4 ounces"], ["4 lb 9 oz", "6 lb 6 oz", "9 oz 4 lb"]),
        ("2 days 5 hours", ["53 hours", "2 d 5 h"], ["5 days 2 hours", "1 d 10 h"]),
        ("3 km 40 m", ["3040 m", "3.04 km"], ["40 km 3 m", "4 km 30 m"]),
        ("20^\\circ 30'", ["20.5^\\circ", "20^\\circ 30^{\\prime}"], ["30^\\circ 20'", "20^\\circ 30''", "20.3^\\circ"]),
        ("19 R 4", ["19 r 4", "19 remainder 4", "19 with a remainder of 4"], ["4 R 19", "2 R 38", "76", "19", "38 R 2"]),
        ("N 20^\\circ E", ["N 20^\\circ E", "N20°E"], ["N 20^\\circ W", "S 20^\\circ E", "E 20^\\circ N", "N 70^\\circ E", "20"]),
        ("25 N 60 E", ["25 N 60 E"], ["60 N 25 E", "30 N 50 E", "25 S 60 E"]),
    ],
    "money": [
        ("£35", ["£35", "35 pounds sterling", "35"], ["$35", "\\$35", "€35", "35 euros", "£53"]),
        ("48 euros", ["€48", "48€", "48"], ["$48", "£48", "48$", "\\$48.00"]),
        ("16 cm", ["16"], ["$16", "$16.00", "\\$16", "€16"]), ("$3.75", ["\\$3.75", "3.75 dollars", "375 cents", "3.75", "USD 3.75", "$3.75$"], ["€3.75", "3.75 cents", "3.75 cm"]),
        ("72", ["$72$", "$72", "\\$72", "72 dollars"], ["$73", "$72 and $73"]), ("x^2", ["$x^2$", "$$x^2$$"], ["$2x$"]),
    ],
    "names": [
        ("(x,y)=(4,7)", ["(4,7)", "(y,x)=(7,4)", "x=4, y=7", "y=7, x=4", "(x, y) = (4, 7)"], ["(y,x)=(4,7)", "(7,4)", "x=7, y=4"]),
        ("(a,b)=(3,8)", ["(3,8)", "(b,a)=(8,3)"], ["(b,a)=(3,8)", "(8,3)"]),
        ("n=9, k=-2", ["9, -2", "k=-2, n=9"], ["-2, 9", "n=-2, k=9"]), ("d=6, c=1", ["6, 1", "c=1, d=6"], ["1, 6", "(1, 6)"]),
        ("p:q=4:9", ["4:9", "q:p=9:4", "8:18"], ["q:p=4:9", "9:4", "2:18"]),
    ],
    "dates, labels, logic": [
        ("1962-03-11", ["1962-03-11"], ["1962-11-03", "1961-04-10", "1948"]), ("3/12/2010", ["3/12/2010"], ["12/3/2010"]),
        ("A(2,7), B(7,2)", ["B(7,2), A(2,7)", "(2,7),(7,2)"], ["A(7,2), B(2,7)"]), ("XI", ["XI"], ["IX"]), ("PQ", ["PQ"], ["QP"]),
        ("p \\land q", ["p \\land q"], ["p \\lor q", "p, q"]), ("12-18", ["12-18", "12 to 18"], ["18-12", "13-19", "2-8", "-6", "2:3"]),
    ],
    "base": [
        ("11", ["11", "11_{10}"], ["11_2", "11_{3}", "11_{\\text{two}}", "11 \\text{ (base 4)}"]), ("321", ["321"], ["321_5", "321_{8}"]),
        ("134_6", ["134_{6}", "134"], ["134_7", "134_{5}"]),
    ],
    "marks": [
        ("60^\\circ", ["60°", "60"], ["60\"", "$60\"$", "60''", "60'"]), ("\\frac{\\pi}{4}", ["\\pi/4"], ["\\frac{\\pi}{4}^\\circ", "(\\pi/4)^\\circ"]),
        ("9 in", ["9\"", "9''", "9 inches"], ["9'", "9^\\circ"]), ("6 ft", ["6'"], ["6\""]),
        ("\\frac{\\sqrt{2}}{2}", ["\\frac{\\sqrt2}{2} \\approx 0.707", "\\frac{\\sqrt2}{2} \\approx 0.7071"],
         ["\\frac{\\sqrt2}{2} \\approx 0.708", "\\frac{\\sqrt2}{2} \\approx 0.717", "0.707"]),
        ("\\sqrt{5}", ["\\sqrt5 \\approx 2.236"], ["\\sqrt5 \\approx 2.237", "\\sqrt5 \\approx 2.3"]),
    ],
    "short roundings": [
        ("0.04", ["0.04", "\\frac{1}{25}"], ["\\frac{1}{24}", "\\frac{1}{27}", "\\frac{3}{70}"]), ("0.20", ["\\frac15"], ["\\frac{3}{14}", "\\frac{6}{31}"]),
        ("0.75", ["\\frac34"], ["\\frac{59}{79}", "\\frac{3}{4.01}"]), ("0.002", ["0.002"], ["\\frac{1}{600}"]), ("0.6", ["\\frac35"], ["\\frac{7}{11}"]),
        ("0.429", ["\\frac37"], ["\\frac{3}{8}"]), ("2.24", ["\\sqrt5"], ["\\sqrt6"]), ("16.67", ["\\frac{50}{3}"], ["\\frac{50}{4}"]),
    ],
    "nearly": [
        ("y=3x", ["y=3x", "3x"], ["y \\approx 3x", "y ≈ 3x"]), ("g(x)=x^2-1", ["x^2-1"], ["g(x) \\approx x^2-1"]), ("x+y=9", ["y=9-x"], ["x+y \\approx 9"]), ("x=7", ["x \\approx 7"], ["x \\approx 8"]),
    ],
    "dashes": [
        ("20-35", ["20–35", "20 ~ 35", "20～35", "20 to 35", "20至35", "20到35", "20\\text{--}35", "between 20 and 35"], ["35-20", "20-36", "-15", "25-40", "4-7"]),
        ("2.5-4.5", ["2.5 to 4.5", "2.5–4.5"], ["-2", "4.5-2.5", "3.5-5.5"]), ("15-25 cm", ["15 to 25 cm", "15 cm - 25 cm"], ["-10 cm", "5-15 cm", "15-25 kg"]),
        ("5\\%-15\\%", ["5% to 15%", "5-15%", "5%~15%"], ["15%-5%", "-10%", "5%-16%"]), ("2-7i", ["2-7i"], ["2 to 7"]), ("10200", ["10~200"], ["10 ~ 200", "10~20"]),
    ],
    "all or nothing": [("(-\\infty,4) \\cup (4,\\infty)", ["x \\ne 4"], ["(-\\infty,4) \\cup (4,\\infty) or no solution"]), ("3, 8", ["8, 3"], ["3, 8, no solution", "3 or no solution"])],
    "alternatives of assignments": [
        ("p=4, q=7", ["q=7, p=4", "p=4 and q=7"], ["p=4 or q=7"]), ("p=4 or q=7", ["q=7 or p=4"], ["p=7 or q=4", "p=4, q=7"]), ("z=4 or z=7", ["z=7, 4", "4, 7", "z_1=4, z_2=7"], ["z=4"]),
    ],
    "money behind words": [
        ("\\frac{-3}{71} inches", ["-3/71 inches"], ["答案是\\$\\frac{-3}{71}", "The result is \\$\\frac{-3}{71}."]), ("\\frac 37 mm", ["3/7 mm"], ["Therefore, it is \\$\\frac 37.", "答案是\\$\\frac37"]),
        ("\\sqrt{11} cm", ["\\sqrt{11}"], ["It is \\$\\sqrt{11}."]), ("80 yuan", ["¥80", "80元", "￥80"], ["\\$80", "€80", "¥81"]), ("80円", ["¥80"], ["80元"]),
    ],
    "words behind": [
        ("13", ["13 apples", "13 cm", "13 students", "13 square units", "13 people"],
         ["13 probably", "13 fails", "13 oder", "13 vielleicht", "13 tal vez", "13 peut-être", "13 millones", "13 Millionen", "13 lakh", "13 dozen", "13 guess", "13 denied",
          "13 nicht", "13 falsch", "13 incorrecto", "13 likely", "13 doubtful", "13 squared", "13 thirteenths", "13 hundredths", "13 contradicts", "13 不对", "不是13",
          "13 is wrong", "13 isn't right", "13 cannot be", "either 13 or 14", "maybe 13", "I'm not sure, 13", "13, I guess", "13 or more", "at least 13", "13?", "~~13~~"]),
    ],
}  # fmt: skip

#: (gold, reply, pays): a unit beside a box, and words that deny it.
BOXED: list[tuple[str, str, bool]] = [
    ("8", "not \\boxed{8}", False), ("8", "\\boxed{8} is wrong", False), ("8", "\\boxed{5} or \\boxed{8}", False), ("8", "\\boxed{8} or 9", False), ("8", "<answer>It is not $\\boxed{8}$.</answer>", False),
    ("8", "First \\boxed{5}, then \\boxed{8}.", True), ("8", "\\boxed{8} is the answer.", True), ("£8", "\\$\\boxed{8}", False), ("£8", "£\\boxed{8}", True), ("8 euros", "\\boxed{8} yuan", False),
    ("8 cm", "\\boxed{8} cm", True), ("8 cm", "\\boxed{8}", True), ("8 cm", "\\boxed{8} mm", False), ("8 cm", "$\\boxed{8}$ m.", False), ("8 cm", "\\boxed{8}\\text{ kg}", False),
    ("8 cm", "\\boxed{80} mm", True), ("8 cm", "<answer>\\boxed{8} km</answer>", False), ("8 hours", "It takes \\boxed{8} minutes.", False), ("8 hours", "It takes \\boxed{8} hours.", True),
    ("8", "\\boxed{8} cm", True), ("8", "\\boxed{8} is what we wanted", True), ("8\\%", "\\boxed{8} cm", False), ("8^\\circ", "\\boxed{8}^\\circ", True), ("8^\\circ", "\\boxed{8} cm", False),
    ("8 m", "\\boxed{8} in total, as m is fixed.", True),
    *[("9", text, False) for text in (
        "It can't be \\boxed{9}.", "Is it \\boxed{9}?", "I doubt that \\boxed{9}", "maybe \\boxed{9}", "more than $\\boxed{9}$", "less than \\boxed{9}", "The wrong answer is \\boxed{9}", "x > \\boxed{9}", "no es \\boxed{9}",
        "\\boxed{9} (incorrect)", "\\boxed{9} — no, 8.", "\\boxed{9} — wait, 8", "\\boxed{9}ではない", "\\boxed{9}이 아니다", "\\cancel{\\boxed{9}}", "-\\boxed{9}", "2\\boxed{9}", "\\boxed{9}0", "\\boxed{9}.5", "\\boxed{9}^2",
        "\\boxed{9} + 1", "\\boxed{9}/4", "\\boxed{9} \\times 10^3", "\\sqrt{\\boxed{9}}", "\\frac{1}{\\boxed{9}}", "\\boxed{9} thousand", "\\boxed{9} million people", "\\boxed{9} dozen", "\\boxed{9}万")],
    *[("9", text, True) for text in (
        "**\\boxed{9}**", "*\\boxed{9}*", "- \\boxed{9}", "- $\\boxed{9}$", "=> \\boxed{9}", "Step 2 \\boxed{9}", "4 + 5 = \\boxed{9}", "$x=\\boxed{9}$", "4 + \\boxed{9} = 13", "\\boxed{9} + 4 = 13", "\\boxed{9} = 3^2", "\\boxed{9} - since 4+5=9",
        "You need at least \\boxed{9} socks.", "There are more apples than pears, so \\boxed{9}.", "\\boxed{9}, not 8.", "\\boxed{9}\n- 4 and 5 add up", "It is not 8. \\boxed{9}", "Is it 8? No: \\boxed{9}", "\\boxed{9}!", "**Final Answer**\n\\boxed{9}", "1. \\boxed{9}", "\\Rightarrow\\boxed{9}", "No other value works, so \\boxed{9}.")],
    *[("8 cm", text, False) for text in ("\\boxed{8} square cm", "**\\boxed{8}** m", "\\boxed{8} (m)", "\\boxed{8} in meters", "\\boxed{8} metres in length")],
    *[("8 cm", text, True) for text in ("**\\boxed{8}** cm", "\\boxed{8} (cm)", "\\boxed{8} in total", "\\boxed{8} centimetres in length", "\\boxed{80} mm in length")], ("8 million", "\\boxed{8} million people", True), ("8 cm^2", "\\boxed{8}\\text{ cm}^3", False), ("8 cm^2", "\\boxed{8}\\text{ cm}^2", True),
]  # fmt: skip

RIGHT: dict[str, list[Row]] = {
    "long decimals": [
        ("\\frac{1}{7}", ["0.14285714285714285", "0.142857142857142857142857142857", "0.142857142857143"], ["0.14285714285714385", "0.142"]),
        ("\\frac{5}{6}", ["0.8333333333333334", "0.83333333333333333333"], ["0.8333333333333534", "0.83"]),
        ("\\sqrt{3}", ["1.7320508075688772", "1.7320508075689"], ["1.7320508075698772", "1.732"]),
        ("\\frac{22}{9}", ["2.4444444444444446"], ["2.44", "2.4444444454444446"]), ("\\pi", ["3.141592653589793"], ["3.141592653589893"]),
        ("1.7320508075688772", ["\\sqrt3"], ["\\sqrt{3.01}"]),
    ],
    "one-letter units": [
        ("0.3 m", ["30 cm", "300 mm", "0.3 meters"], ["3 cm", "0.3 km", "0.3 s"]), ("4 km", ["4000 m", "4000m"], ["400 m", "4000 s"]), ("2.5 L", ["2500 mL", "2.5 liters"], ["250 mL"]),
        ("0.3m", ["30cm"], ["3cm"]), ("2 h", ["120 min", "2 hours"], ["20 min", "2 s"]), ("90 s", ["1.5 min"], ["1.5 h"]), ("750 g", ["0.75 kg"], ["7.5 kg"]),
        ("3 hours 20 minutes", ["200 min", "3 h 20 min"], ["320 min"]), ("5 m/s^2", ["5\\ \\mathrm{m\\,s^{-2}}", "5 meters per second squared"], ["5 m/s", "5\\ \\mathrm{m\\,s^{-1}}"]),
        ("45^\\circ", ["\\frac{\\pi}{4}\\text{ radians}", "\\frac{\\pi}{4}"], ["\\frac{\\pi}{3}\\text{ radians}", "45\\text{ radians}"]),
        ("3 kW", ["3000 W"], ["3 W", "3 mW"]), ("12 N", ["12 newtons"], ["12 J"]), ("5 MW", ["5000 kW"], ["5 mW"]), ("20 m/s", ["72 km/h"], ["72 m/s"]),
    ],
    "named ratios": [
        ("S_{1}:S_{2}=5:12", ["5:12", "5/12"], ["12:5", "S_2:S_1=5:12"]), ("m:n=3:7", ["3:7", "6:14"], ["7:3"]),
        ("\\frac35", ["\\frac{AE}{EC}=\\frac35", "AE/EC = 3/5"], ["\\frac{AE}{EC}=\\frac53"]), ("\\frac{AE}{EC}=\\frac35", ["\\frac35"], ["\\frac{EC}{AE}=\\frac35"]),
        ("x=2,y=5 or x=6,y=1", ["(2,5),(6,1)", "(6,1),(2,5)", "x=6,y=1 or x=2,y=5"], ["(5,2),(1,6)", "(2,1),(6,5)", "(2,5)"]),
        ("a=1,b=4; a=3,b=2", ["(1,4),(3,2)"], ["(4,1),(2,3)"]), ("y \\neq 8", ["y != 8", "y ≠ 8"], ["y = 8", "y != 7"]), ("5! ", ["120"], ["5 != 120"]),
    ],
    "sentences": [
        ("37", ["about 37", "approximately 37", "exactly 37", "The total is exactly 37.", "There are 37 apples in total.", "Therefore 37 is the answer.", "total: 37", "The number of ways is 37",
                "### Final Answer\n37", "**Final Answer**\n37", "Step 1: multiply.\nStep 2: add 4.\nFinal answer: 37", "So, the final answer is 37.", "37 is the answer", "Answer: 37",
                "Mia needs 37 beads to make a chain.", "My result is 37."],
         ["The total is not 37.", "less than 37", "more than 37", "The total is 37 or 38.", "37 is not the answer", "The answer could be 37", "I guess 37", "almost 37", "The answer is about 38",
          "Final answer: 37 or 38", "The total is 37 dozen.", "The square of x is less than 37", "The total is between 36 and 37", "wrong answer: 37", "Is the answer 37?", "twice 37", "half of 37"]),
        ("$y \\le 4$", ["Therefore $y \\leq 4$ is the solution.", "Thus $y <= 4$ is our answer."], ["Therefore $y \\geq 4$ is the solution.", "$y \\le 4$ is not the solution"]),
        ("\\$2.35", ["Ana needs $2.35 to buy a pen.", "It costs $2.35."], ["Ana needs $3.25 to buy a pen.", "It costs 2.35 euros."]),
        ("4", ["$19 \\bmod 5 = 4$", "$\\lim_{x \\to 2} x^2 = 4$", "$\\gcd(8, 12) = 4$"], ["$19 \\bmod 5 = 3$", "$4 \\bmod 5 = 3$"]),
        ("(-3, 2)", ["The point is (-3, 2).", "Rounded, the point is approximately:\n\n(-3, 2)"], ["The point is (2, -3)."]),
    ],
    "numbers": [
        ("24600", ["24 600", "24,600", "24\\,600", "24{,}600", "24,\\! 600", "24,\\!600"], ["24 60", "2 4600", "24 6000"]), ("1300000", ["1 300 000", "\\$1.3M", "$1.3 million"], ["1 300 00", "\\$1.3K"]),
        ("\\frac23", ["0.\\dot{6}", "0.\\dot6", "0.(6)", "0.\\overline{6}"], ["0.6", "0.\\dot{5}"]), ("\\frac{1}{7}", ["0.\\dot{1}4285\\dot{7}"], ["0.\\dot{1}4285\\dot{6}"]),
        ("\\frac{5}{12}", ["0.41\\dot{6}"], ["0.41\\dot{7}"]), ("31\\%", ["31 pct", "31 percent", "31 percentage"], ["31 cm", "13 pct"]), ("USD 8", ["8", "8 dollars", "\\$8"], ["EUR 8", "USD 9"]),
    ],
    "Chinese and Japanese": [
        ("9", ["因此，答案为 9。", "因此，答案為 9。", "答案是9", "所以答案是 9", "周长为9", "周長為9", "一共有9个", "共有9個", "9米", "答えは9です", "回答：9", "故答案为：9"],
         ["答案不是9", "大于9", "9或10", "可能是9", "周长为90", "不超过9", "至少9"]),
        ("35 yuan", ["35元", "35"], ["35美元", "35米"]), ("4小时", ["4 hours", "4小時", "240 minutes", "4"], ["4分钟", "4 minutes"]), ("6 cm", ["6厘米", "6公分", "60毫米"], ["6米"]),
        ("12 m^2", ["12平方米"], ["12平方厘米", "12米"]), ("50 kg", ["50千克", "50公斤"], ["50克"]), ("20000", ["2万", "2萬"], ["2亿"]), ("3000円", ["3000 yen", "3000"], ["3000元"]),
    ],
    "golds that were too large": [
        ("\\binom{1800}{900}", ["\\binom{1800}{900}", "\\dbinom{1800}{900}"], ["\\binom{1800}{901}", "\\binom{1801}{900}", "1"]), ("1999^{4002}", ["1999^{4002}", "{1999}^{4002}"], ["1999^{4001}", "1999^{4002}+1", "4002^{1999}"]),
        ("7^{200000}", ["7^{200000}"], ["7^{200001}", "7^{20000}"]),
    ],
    "sizes": [
        ("5 by 9", ["5×9", "5 × 9", "$5 \\times 9$", "5 x 9", "5-by-9"], ["9×5", "3 × 15", "45", "1 × 45"]), ("5 m by 9 m", ["5 m × 9 m", "5 × 9 m", "5\\text{ m} \\times 9\\text{ m}"], ["9 m × 5 m", "5 m × 9 cm", "45 m"]),
    ],
    "quotients": [
        ("14 R 5", ["14 余 5", "14 r5", "14 Rest 5", "14 reste 5", "14 resto 5", "quotient 14, remainder 5", "quotient 14 and remainder 5", "14 remainder of 5", "商14余5", "14......5"], ["5 余 14", "14 余 6", "7 Rest 10", "70", "14", "quotient 5, remainder 14"]),
        ("14 R 5", ["商是14，余数是5"], ["商是5，余数是14"]), ("14余5", ["14 R 5"], ["5 R 14", "7余10"]),
    ],
    "measures in other languages": [
        ("4 小时 15 分", ["4 h 15 min", "4小时15分钟", "255 min", "4시간 15분", "4 horas 15 minutos"], ["15 小时 4 分", "3 小时 20 分", "4 h 15 s", "60"]), ("2 h 3 min 9 s", ["2小时3分9秒"], ["3小时2分9秒", "2小时9分3秒"]),
        ("9 inches", ["9英寸", "答案是9英寸"], ["9英尺", "9厘米"]), ("25\\%", ["百分之25"], ["百分之52"]), ("\\frac{2}{7}", ["7分之2"], ["2分之7"]), ("4:9", ["4比9", "4 is to 9"], ["9比4", "9 is to 4"]),
    ],
    "recurring": [
        ("\\frac{5}{12}", ["0.41666...", "0.416666\\ldots", "0.416\u0305"], ["0.4166", "0.41...", "0.4777..."]), ("\\frac{4}{11}", ["0.363636...", "0.3\u03056\u0305"], ["0.363535...", "0.36..."]),
    ],
    "words for numbers": [
        ("1 in 8", ["one in eight", "1 in every 8", "1 out of 8"], ["eight in one", "one in nine"]), ("-6", ["negative 6", "minus 6", "负6"], ["6", "minus -6"]), ("5i", ["0+5i"], ["5", "2i+3i", "0-5i"]),
        ("(4, 9)", ["the point (4, 9)"], ["the point (9, 4)", "not the point (4, 9)"]), ("8", ["es gibt 8", "il y a 8 solutions", "hay 8"], ["hay 9", "il y a 8 ou 9"]),
    ],
    "sets and matrices": [
        ("\\begin{pmatrix}5&6\\\\7&8\\end{pmatrix}", ["[[5, 6], [7, 8]]", "[[5,6],[7,8]]", "A = [[5,6],[7,8]]"], ["[[5, 7], [6, 8]]", "[[5, 6, 7, 8]]", "[5,6,7,8]"]),
        ("\\begin{bmatrix}1\\\\9\\end{bmatrix}", ["[[1],[9]]"], ["[[9],[1]]"]),
        ("\\frac{\\pi}{3}+k\\pi", ["\\frac{\\pi}{3}+n\\pi", "n\\pi+\\frac{\\pi}{3}", "x = \\frac{\\pi}{3} + n\\pi"], ["\\frac{\\pi}{3}+2n\\pi", "\\frac{\\pi}{6}+n\\pi", "\\frac{\\pi}{3}+n"]),
        ("(3,\\infty)", ["\\{x \\mid x > 3\\}", "\\{x : x > 3\\}", "\\{x \\in \\mathbb{R} : x>3\\}"], ["\\{x \\mid x \\ge 3\\}"]),
    ],
}  # fmt: skip

#: (gold, reply, pays): the tag in prose.
TAGS: list[tuple[str, str, bool]] = [
    ("6", "<think>a</think>I will put it in <answer> tags: <answer>6</answer>", True), ("6", "<think>a</think>My answer goes in `<answer>` here: <answer>6</answer>", True),
    ("6", "The result stands in <answer></answer> tags. <answer>6</answer>", True), ("6", "<answer >6</answer >", True), ("6", "< answer>6</ answer>", True),
    ("6", "I use <answer> tags: <answer>7</answer>", False), ("6", "<answer>6</answer><answer>7</answer>", False), ("6", "<answer>6</answer> tags <answer>7</answer>", False),
    ("6", "<answer>7 <answer>6</answer>", False), ("6", "<answer>6</answer> tags", True),
]  # fmt: skip

CHOICE: list[tuple[tuple[str, ...], str, list[str], list[str]]] = [
    ((), "C",
     ["C is correct", "C is the correct answer.", "I choose C", "I'd pick C", "I think it's (C).", "The correct option is C", "[C]", "\\boxed{C}", "正确答案是C", "正確答案為 C", "答案选C", "選 C", "故選 C。",
      "故选C", "答えはC", "정답: C", "정답은 C", "Ответ: C", "Respuesta: C", "La respuesta es C", "Antwort: C", "C. They meet at one point f(x)=g(x)", "(C) No real root", "C. Not enough information",
      "A line has two ends, so 2 + 2 = 4. Therefore, the answer is C.", "Compare them:\n1/2 = 0.5\n\nAnswer: C", "Answer: C, which is cold.", "option C"],
     ["C. is wrong", "C is incorrect", "C is not correct", "(C) cannot be right", "(C), (3)", "C, 3", "C or D", "not C", "C: no, D", "C?", "C'", "maybe C", "C. or maybe D", "(C) isn't it", "C and D", "Either C or D",
      "The answer is not C", "I think it's C or D", "不选C", "答案不是C", "(C) False", "C. That cannot be", "either C", "D is correct", "C, but maybe not", "C is wrong", "C) and D)", "C. IS WRONG", "C. CAN BE RULED OUT"]),
    ((), "ABC", ["A, B, and C", "A, B, C", "A、B、C", "A和B和C", "A and B and C", "ABC", "B, A and C"], ["A, B", "A and B", "A, B, C, D", "A, B, or C", "Both A and B"]),
    ((), "BD", ["Both B and D", "B和D", "B与D", "B, D", "B & D"], ["B", "D", "B or D", "neither B nor D"]),
    (("15", "25", "35", "45"), "BD", ["B. 25, D. 45", "B. 25 and D. 45", "B, D"], ["B. 25, D. 35", "B. 25", "A. 15, D. 45"]),
    (("Yes", "No"), "A", ["A. Yes, because the angles are equal", "Yes", "A. Yes", "A"], ["B. No, because the angles differ", "A. No, because they differ", "Yes or no", "B"]),
    (("4", "5"), "A", ["A. 4", "(A) 4"], ["(A), (4)", "(A), (5)", "(A) (B)"]),
    (("21", "28", "35", "42"), "B",
     ["B, because 4*7=28", "B because 4 times 7 is 28", "B since it is even", "I'll go with B", "(B. 28)", "B = 28", "B选项", "'B'", "\"B\"", "`B`", "*B*", "“B”"],
     ["(A. 28)", "(B. 35)", "答案是(A. 28)", "C = 28", "B = 35", "28?", "A, because it is 28", "B, because it is 35", "B because A or C", "B'", "B′", "B*", "B^\\prime", "~B", "B\"", "The answer is B'.", "(B)'"]),
    (("(A)", "(B)", "(C)", "(D)", "(E)"), "D", ["D", "(D)", "D."], ["D'", "(D)'", "D*", "D''", "(E)"]), (("A", "A'", "B"), "B", ["A'", "B"], ["A", "B'"]), ((), "D", ["D", "'D'"], ["D'", "D\"", "~D", "D*", "\\text{D'}.", "**D'**"]),
    (("0", "4", "9"), "A", ["0", "A", "A. 0"], ["0 or 4", "0 and 9", "not 0", "4 or 0", "0 or 9"]),
]  # fmt: skip

NUMERIC: list[Row] = [
    ("37", ["about 37", "The year is 37.", "37 cm", "approximately 37", "The reading is 37 units."], ["not 37", "37 or 38", "The year is not 37.", "37 probably", "less than 37"]),
    ("4 m", ["400 cm", "4"], ["4 cm", "400 m"]), ("8", ["8"], ["8_9", "8 dozen"]),
]  # fmt: skip

TEXT: list[Row] = [
    ("no", ["No, the lines are not parallel.", "No. It is not a circle.", "No"], ["No?", "Yes, the lines are not parallel.", "No, wait, yes", "No but maybe", "Yes", "No, possibly", "No, unless it rains", "No, that is untrue"]),
    ("yes", ["Yes, they are equal.", "Yes", "Yes — they are equal."], ["No, they are equal.", "Yes?.", "Yes — or no", "Yes, not equal", "Yes, probably", "Yes, it isn't", "Yes, nope", "Yes, hardly"]),
    ("CO2", ["$CO_2$", "\\ce{CO2}", "\\mathrm{CO_2}", "CO₂", "CO_{2}"], ["CO3", "C2O", "CO"]), ("Ca(OH)2", ["Ca(OH)_2", "\\ce{Ca(OH)2}"], ["Ca(OH)3"]),
    ("2,500", ["2500", "2,500"], ["250", "25000"]),
]  # fmt: skip

#: Texts on which a reader of this kind once raised, or could.
ODD = [
    "5 \\frac{7}{3} ft 2 in", "12, remainder what", "remainder 3", "N x E", "N  E", "5' '' 6", "3 \\text{ R }", "( , )=(1,2)", "(x,y)=(1)", "(x,y)=", "a:b=", "a:b=1:2:3", "[[1,2],[3]]", "[[", "[[]]",
    "x=1,y=2;x=3", "=2 \\bmod", "\\bmod = ", "1 to to 2", "by by 3", "$$$5", "$5$5$", "US$", "万", "5万万", "米5", "0.\\dot{}", "0.\\dot", "0.(", "12 345 6", "1 to 2 to 3 to 4 to 5", "5 m m m", "5 ^2 m",
    "5\\text{ m^}", "5\\text{^2}", "5\\text{ per }", "5 per", "5 / m / s / h", "\\ce{}", "5' 6' 7'", "1 h 2 h", "90^\\circ ' ''", "is 5", ": 5", "5 is the answer is the answer", "答案", "答案是", "答えは",
]  # fmt: skip
