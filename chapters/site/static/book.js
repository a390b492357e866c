// Figures that enlarge, and everything that scrolls or opens within reach of the keyboard.
"use strict";

function enlarge(image) {
  const dialog = document.createElement("dialog");
  dialog.className = "enlarged";
  dialog.setAttribute("aria-label", image.alt);
  const copy = document.createElement("img");
  copy.src = image.src;
  copy.alt = image.alt;
  copy.className = image.className;
  copy.classList.remove("enlarges");
  dialog.append(copy);
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (["Enter", " ", "Escape"].includes(event.key)) dialog.close();
  });
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}

function prepareFigures() {
  for (const image of document.querySelectorAll("article img")) {
    if (image.closest("a")) continue;
    image.classList.add("enlarges");
    image.tabIndex = 0;
    image.setAttribute("role", "button");
    image.setAttribute("aria-haspopup", "dialog");
    image.addEventListener("click", () => enlarge(image));
    image.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        enlarge(image);
      }
    });
  }
}

// On narrow screens the theme hides its sidebars behind labels, which the keyboard cannot reach.
function letKeyboardOpenSidebars() {
  for (const label of document.querySelectorAll('label[for="__navigation"], label[for="__toc"]')) {
    const box = document.getElementById(label.htmlFor);
    if (label.classList.contains("overlay")) continue;
    label.tabIndex = 0;
    label.setAttribute("role", "button");
    label.setAttribute("aria-label", box.getAttribute("aria-label"));
    label.addEventListener("keydown", (event) => {
      if (event.key === "Enter" || event.key === " ") {
        event.preventDefault();
        box.checked = !box.checked;
      }
    });
  }
}

function letKeyboardScroll() {
  for (const math of document.querySelectorAll("article span.math")) {
    const formula = math.querySelector("mjx-container");
    math.classList.toggle("long", formula?.getBoundingClientRect().width > math.parentElement.clientWidth);
  }
  for (const region of document.querySelectorAll("article pre, .table-wrapper, article .math")) {
    if (region.scrollWidth > region.clientWidth) region.tabIndex = 0;
  }
}

function openBeforePrinting() {
  for (const details of document.querySelectorAll("article details")) details.open = true;
}

// The search quotes the beginning of what it found, which should be text: not the map, and not an anchor without text.
function quoteTextOnly() {
  if (typeof Search === "undefined") return;
  const quoted = Search.htmlToText;
  Search.htmlToText = (html, anchor) => {
    const page = new DOMParser().parseFromString(html, "text/html");
    page.querySelectorAll(".book-maps, .get-notebook").forEach((part) => part.remove());
    const place = anchor ? page.querySelector(anchor) : null;
    if (place?.textContent.trim() === "") return place.closest("section").textContent;
    return quoted(page.documentElement.outerHTML, anchor);
  };
}

// A page that is opened as a file may not read others, so the search cannot quote them.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

quoteTextOnly();
prepareFigures();
letKeyboardOpenSidebars();
letKeyboardScroll();
addEventListener("load", () => globalThis.MathJax?.startup?.promise?.then(letKeyboardScroll));
addEventListener("resize", letKeyboardScroll);
addEventListener("beforeprint", openBeforePrinting);
