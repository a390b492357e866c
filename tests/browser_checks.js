// What is wrong with the page in which this runs; tests/test_site.py evaluates it in every page.

function visible(element) {
  return element.checkVisibility({ checkOpacity: true, checkVisibilityCSS: true });
}

function name(element) {
  const labels = [element.getAttribute("aria-label"), element.alt, element.title, element.textContent];
  const label = element.id && document.querySelector(`label[for="${element.id}"]`);
  return [...labels, element.placeholder, label?.textContent].find((text) => text?.trim());
}

function short(element) {
  return `${element.tagName} ${element.outerHTML.slice(0, 160)}`;
}

function problems() {
  const article = document.querySelector("article");
  const copy = article.cloneNode(true);
  copy.querySelectorAll("pre, code, mjx-container, script, svg").forEach((part) => part.remove());
  const tex = copy.textContent.match(/\\[([]|\$\$|\\(frac|theta|text|alpha|nabla|mathbb|left|omega)\b[^\n]*/g) || [];
  const undrawn = [...article.querySelectorAll(".math")].filter((math) => !math.querySelector("mjx-container svg"));
  const wrong = [...document.querySelectorAll("[data-mml-node='merror'], mjx-merror")];
  const nameless = [...document.querySelectorAll("img, button, a[href], input:not([type=hidden])")];
  const regions = [...article.querySelectorAll("*")].filter(
    (part) => part.scrollWidth > part.clientWidth + 1 && /auto|scroll/.test(getComputedStyle(part).overflowX),
  );
  return {
    formulas: [...tex, ...undrawn.map(short), ...wrong.map(short)],
    sideways: [...(document.documentElement.scrollWidth > innerWidth ? ["the page scrolls sideways"] : []), ...cut()],
    names: nameless.filter((part) => visible(part) && !name(part)).map(short),
    scrolling: regions.filter((part) => part.tabIndex < 0 && !part.querySelector("a, button, [tabindex]")).map(short),
    cells: [...article.querySelectorAll("td")].filter((cell) => cell.getBoundingClientRect().width > innerWidth).map(short),
    headings: document.querySelectorAll("h1").length === 1 || location.pathname.endsWith("/search.html") ? [] : [`${document.querySelectorAll("h1").length} h1`],
  };
}

// Elements that extend beyond the right edge of the screen without a region of their own that scrolls.
function cut() {
  const beyond = (part) => part.getBoundingClientRect().right > innerWidth + 1;
  const scrolls = (part) => /auto|scroll|hidden/.test(getComputedStyle(part).overflowX);
  const within = (part) => part.tagName !== "ARTICLE" && (scrolls(part) || within(part.parentElement));
  const found = [...document.querySelectorAll("article *")].filter((part) => beyond(part) && visible(part));
  return found.filter((part) => !within(part) && !part.closest("svg, mjx-assistive-mml")).slice(0, 5).map(short);
}

function channels(color) {
  const [r, g, b, a = 1] = color.match(/[\d.]+/g).map(Number);
  return { rgb: [r, g, b], a };
}

function luminance(rgb) {
  const linear = rgb.map((value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}

function over(front, back, a) {
  return front.map((value, n) => value * a + back[n] * (1 - a));
}

function background(element) {
  const layers = [];
  for (let part = element; part; part = part.parentElement) {
    const box = part.tagName === "a" || part.tagName === "g" ? part.querySelector("rect") : null;
    const { rgb, a } = channels(box ? getComputedStyle(box).fill : getComputedStyle(part).backgroundColor);
    layers.unshift([rgb, a]);
    if (a === 1) break;
  }
  return layers.reduce((below, [rgb, a]) => over(rgb, below, a), [255, 255, 255]);
}

function contrast(element) {
  const style = getComputedStyle(element);
  const back = background(element);
  const { rgb, a } = channels(element.namespaceURI.endsWith("svg") ? style.fill : style.color);
  let opacity = a;
  for (let part = element; part; part = part.parentElement) opacity *= Number(getComputedStyle(part).opacity);
  const [low, high] = [luminance(over(rgb, back, opacity)), luminance(back)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
}

function poorContrast(theme) {
  document.body.dataset.theme = theme;
  const found = new Map();
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("script, style, mjx-container, title") || !visible(element)) continue;
    const style = getComputedStyle(element);
    const size = parseFloat(style.fontSize);
    const needed = size >= 24 || (size >= 18.66 && style.fontWeight >= 700) ? 3 : 4.5;
    const ratio = contrast(element);
    const kind = `${element.tagName}.${element.className} in ${element.parentElement.className}`;
    if (ratio < needed) found.set(kind, `${ratio.toFixed(2)} ${kind}: ${walker.currentNode.data.trim().slice(0, 40)}`);
  }
  return [...found.values()];
}
