
// Saves a figure as a file of its own: with the letters that all figures of the page share, and in the colours of a bright page.
document.documentElement.classList.add("scripted");
document.addEventListener("click", event => {
  const link = event.target.closest("a[data-figure]");
  if (!link) return;
  const svg = document.querySelector(`#${link.dataset.figure} svg`).cloneNode(true);
  const used = [...svg.querySelectorAll("use")].map(use => use.getAttribute("href"));
  const letters = document.createElementNS(svg.namespaceURI, "defs");
  for (const id of new Set(used.filter(id => id.startsWith("#glyph-")))) letters.append(document.querySelector(id).cloneNode());
  svg.prepend(letters);
  svg.setAttribute("style", "background: #ffffff");
  const text = new XMLSerializer().serializeToString(svg)
    .replace(/var\([^,]*, (#\w+)\)/g, "$1").replaceAll("currentColor", "#000000");
  link.href = URL.createObjectURL(new Blob([text], {type: "image/svg+xml"}));
});
