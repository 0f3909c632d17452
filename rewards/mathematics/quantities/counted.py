"""Closed list of the nouns and remarks that may follow the number of an answer, such as `apples` or `altogether`.

None of them changes the number. Every other word after a number does not belong to an answer, except the nouns of the
gold and of the problem: "42 in binary", "5 negated" and "5 tentatively" are not 42 and 5.
"""

# Units of a count, without plural: what word problems count.
COUNTED_NOUNS = """
accident account achievement acorn acre action activities activity actor actress ad adult advertisement aeroplane air
airplane album almond alpaca amoebae angle animal ant apartment ape apex appetizer apple applicant appointment apricot
aquarium arc area arm arrangement article asparagus assignment athlete atom attempt audience author avocado award axe
axis babies baby bacon bacteria badge bag bagel baguette bale ball balloon banana band bank bar barn barrel
barrette baseball basket basketball bat batch battalion battery bay beach bead beaker bean bear bed bedroom bee beef
beet beetle belt bench berry bet beverage bicycle bid bike bill billboard bin biography bird birthday biscuit bit bite
blanket blazer block blowfish blueberries blueberry board boat bolt bond book bookcase bookmark bookshelf boot bottle
boulder bounce bouquet bow bowl box boy bracelet branch bread breakfast breath brick bridge broccoli broom brother
brownie brush bucket budget buffalo bug building bulb bull bulldozer bun bunch bundle burger burrito bus buses bush
bushel business businesses butter butterfly button buyer cab cabbage cabin cabinet cage cake calculation calculator
calendar calf call calorie calves camel camera camper can canary candle candy canoe cap cappuccino captain car card
cardboard carousel carpenter carrot cart carton cartridge case cash cashew cashier cassette castle cat caterpillar
cattle ceiling celery cell cellphone center centre cereal certificate chain chair chalk chapter charger chart check
cheese cheesecake cherry chess chest chick chicken child children chip chocolate choice chord chore cigarette circle
cities citizen city class classes classmate client clip clock cloth clothes cloud clownfish club clue cluster coach
coat cockroach coconut coefficient coffee coin collar collection colonies colony color colour column comb combination
comic commercial companies company compartment competition computer concert cone consonant container continent cookie
copies copy coral corn corner cot couch count counter countries country county coupon course cousin cover cow crab
cracker cranberry crane crate crayon crew crocodile croissant crop crossing crumb crystal cubicle cuboid cucumber cup
cupcake curtain cushion customer cycle cyclist cylinder daisies daisy dance dancer dandelion dataset daughter deck
deer deliveries delivery dentist deposit desk desktop dessert diagonal dial diamond diaries diary dice dictionaries
dictionary digit dime dimension dinner director dish dishes district divisor doctor dog doll dollhouse dolphin domino
dominoes donation donkey donut door dose dot doughnut drawer drawing dress drill drink driver driveway drone drum duck
duckling eagle ear earring edge egg eggplant electron element elephant elevator email emoji employee emu engine
engineer entree envelope episode eraser error espresso essay evening event exam exercise experiment eye face family
fan farm farmer father feather fee female fence field fig fight figure figurine file film finger firefighter fish flag
flagpole flamingo flashlight flavor fleet flies flight flip flock floor flour flower flute fly flyer folder food
forest fork fountain fox frame freezer friend frog fruit furniture gadget game garage garden garlic gate gecko geese
gem generation germ gift giraffe girl glass glasses glove glue gnome goal goat goldfish golf goose grade grain
grandchild grandchildren grandmother grant grape grapefruit group guest guestroom guitar gum gumball gummy guppy hair
ham hamburger hammer hamster hand handout handshake harvest harvester hat head headphone heartbeat heater helicopter
helmet helper hen herb herd hexagon hill hint hippo hit hole homerun hoof hook hoop hop horn horse hose hotdog hotel
house houses human icecream inch income individual ingredient inhabitant inning insect instrument integer intersection
interval investment invitation invoice island item jacket jam jar jean jellybean jersey jet jewel job jug juice jump
kangaroo key keyboard kid kilobyte kind kit kite kitten kiwi knife knives knob koala ladder ladies lady ladybug lake
lamb lamp lantern lap laptop latte lawn lawyer layer leader leaf leaves leg lemon lemonade lens leopard lesson letter
lettuce level light lightbulb lilies lily lime line lion list litter lizard loaf loan loaves lobster lock locker log
lollipop loop lunch lyric macaroni machine magazine magnet mailbox male mammal man manager mango mangoes map marathon
marble marigold marker market mask mat match matches matchstick mattress meadow meal meat meatball medal meeting melon
member men message method mice microphone microscope milk milkshake mirror mission mitten model molecule monitor
monkey month morning mortgage mosquito motel mother motor motorbike motorcycle mountain mouse mouth move movie mower
muffin mug mushroom musician nail nap napkin nation necklace nectarine needle neighbor neighborhood neighbour nephew
nest net netbook newspaper nickel niece night nighttime nomination noodle noon nose note notebook notepad novel nugget
nurse nut oat oatmeal object octagon octopus officer oil olive omelet omelette onion orange orchestra orchid order
ornament ostrich outcome outfit oven owl owner ox oxen oyster pack package packet page paintbrush painter painting
pallet pan pancake panda panel pansies pansy papaya paper paperback paperclip paragraph parallelogram parcel parent
park parrot part participant particle parties party passenger pasta pastry patch path patient pattern paw paycheck
payment pea peach peacock peanut pear pecan peel pen pencil penguin pennies penny pentagon people pepper pepperoni
performance period permutation person pet petal phase phone photo photograph photographs photon phrase piano pickle
picture pie piece pig pigeon piglet pile pill pillow pillowcase pilot pin pineapple pinecone pipe pitch pixel pizza
place plane planet plank plant plate play player pliers plum pod poem point pole policeman polygon polyhedron
pomegranate pomelo pond pony popcorn popsicle pork position post poster pot potato potatoes practice present pretzel
price pride prism prize problem profit program project proton province pumpkin punch pupil puppet puppy purchase purse
pushup puzzle pyramid quadrilateral question quiche rabbit raccoon race rack racket radio radish radius raisin rake
ram raspberries raspberry rat rating read ream receipt recipe rectangle reed refrigerator region relative rent rental
rep repetition replies report reptile request resident revenue review revolution reward rhino rhombus ribbon rice
riddle ride rider ring river rivet road robot rock rocket roll rollercoaster rooftop room roommate rooster rope rose
rotation round route row rug ruler run runner sack sail sailor salad salary sale salesperson salmon salt sandwich
sapling satellite sauce saucer sausage saving saw scarf scarves scene school scientist scissors scooter screen screw
seagull seashell season seat sector seed seedling segment selection semester senior sentence sequence series serving
session set shape share shark sheep sheet shelf shell shelter shelves shift ship shirt shoe shop short shot shovel
show shrimp sibling side sign singer sip sister situp skateboard sketch skill skip skirt skyscraper slice slot
smartphone snack snail snake snowball snowflake snowman snowstorm soap sock soda sofa soldier solution son song sound
soup space speaker spectator spending sphere spice spider spin spinach spoke spool spoon spot sprinkler sprout
squirrel stack staff stage stair staircase stamp staple star starfish state statue steak stem step stew stick sticker
stitch stock stone stool stop store stories storm story stove strategy straw strawberries strawberry street string
stripe stroke student study subject submission subset subway sugar suit suitcase suite sunflower supermarket sushi
swan swarm sweater sweet swim swimmer sword syllable syrup table tablecloth tablet taco tadpole tail tank tape tart
task tax tea teacher team teammate teenager teeth telescope tenant tent terabyte term test testtube tetrahedron text
textbook theme thing thread throw ticket tie tiger tile tin tip tire toad toast today toddler toe toilet token tomato
tomatoes tool tooth toothbrush toothpick topic topping torch touchdown tour tourist tournament towel tower town toy
tractor trail trailer train trainer training tram transaction trapezoid traveler tray treasure treat tree trial
triangle tricycle trip troop trophies trophy trout truck truffle trumpet trunk try tube tulip tuna tuple turbine
turkey turnip turtle tv type umbrella uncle unicorn uniform vacation vampire van vase vegetable vehicle verse version
vertex vertice vertices vibration video videotape view village violet violin virus visit visitor volunteer vote voter
vowel waffle wage wagon waiter walk walker wall wallet walnut wand warning watch watches water watermelon wave way
weasel weekday weekend whale wheel wheelbarrow wheelchair whistle wick win window wine wing winner wire wish wolf
wolves woman women wood word workday worker workout world worm wrapper wrench writer yacht yard yarn yogurt zebra zone
zoo
"""
# Adjectives that may stand before a noun or for it: "72 hair clips", "5 red".
ADJECTIVES = """
additional new red blue green yellow black white brown pink purple silver gold golden grey gray whole different distinct
possible big small large little full empty female male young real complex positive exact extra wooden plastic metal hair
school bus football soccer tennis hockey music gift ice cream
ordered unordered
"""
# Words that only describe the number that is before them: "6 feet tall", "5 altogether".
REMARK_WORDS = "old tall long high wide deep thick left remaining apiece altogether total overall each away exactly"
REMARKS = set(REMARK_WORDS.split())
JOINING_WORDS = {"per", "of", "in", "a", "an", "for", "the"}
"""Words that may stand between two others: "5 dollars a day", "5 in total"."""
PLURALS = {"roots", "squares", "cubes", "zeros", "zeroes", "primes", "factors", "bases", "times", "values", "numbers"}
"""Nouns that count only in the plural: "5 square" and "5 cube" may stand for a power."""


def stem(word: str) -> str:
    """Return a noun in lower case and in the singular: `"Boxes"` and `"box"` -> `"box"`."""
    lower = word.lower()
    if lower.endswith("ies") and len(lower) > 4:
        return lower[:-3] + "y"
    if lower.endswith(("sses", "xes", "zzes", "ches", "shes")):
        return lower[:-2]
    return lower[:-1] if lower.endswith("s") and not lower.endswith(("ss", "us")) and len(lower) > 2 else lower


NOUNS = frozenset(stem(word + ending) for word in (COUNTED_NOUNS + ADJECTIVES).split() for ending in ("", "s"))
"""Stems of the nouns, also that of a plural such as "cookies", which ends like one in "y"."""
