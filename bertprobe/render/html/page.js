(async () => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const { config, panels } = read("charts");
  // `ast` evaluates expressions without building code, which the page's own policy forbids.
  const options = { ast: true, actions: false, renderer: "svg", config, tooltip: { disableDefaultStyle: true, theme: "page" } };
  for (const [id, spec] of Object.entries(panels)) {
    const place = document.getElementById(id);
    await window.vegaEmbed(place, spec, options);
    // One image with a description, not a document of a hundred marks: the numbers stand in tables.
    place.setAttribute("role", "img");
    place.removeAttribute("aria-roledescription");
    place.querySelector(".vega-bindings")?.remove();
  }
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const one of closed) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of closed) one.open = false;
  });
  document.documentElement.dataset.drawn = "yes";
})();
