// Figures that enlarge, and regions that scroll sideways and can be reached with the keyboard.
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
    if (event.key === "Enter" || event.key === " ") dialog.close();
  });
  dialog.addEventListener("close", () => {
    dialog.remove();
    image.focus();
  });
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

function letKeyboardScroll() {
  for (const region of document.querySelectorAll("article pre, .table-wrapper, article div.math")) {
    if (region.scrollWidth > region.clientWidth) region.tabIndex = 0;
  }
}

function openBeforePrinting() {
  for (const details of document.querySelectorAll("article details")) details.open = true;
}

// A page that is opened as a file may not read others, so the search cannot quote them.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

prepareFigures();
letKeyboardScroll();
addEventListener("resize", letKeyboardScroll);
addEventListener("beforeprint", openBeforePrinting);
