// What the theme leaves to a mouse or to the eye.
addEventListener("load", () => {
  // tables wider than the page scroll; with a place in the order of focus they do so by the arrow keys too
  for (const wrap of document.querySelectorAll(".md-typeset__scrollwrap")) wrap.tabIndex = 0;
  // boxes of a list are named by its entry
  for (const box of document.querySelectorAll(".task-list-item input")) box.setAttribute("aria-label", box.parentElement.textContent.trim());
});
