/* What pages do in a browser beyond links and forms. Text is only ever set as text. */
(() => {
  "use strict";
  const zoned = new Intl.DateTimeFormat(undefined, {dateStyle: "medium", timeStyle: "short"});
  const zonedSeconds = new Intl.DateTimeFormat(undefined, {dateStyle: "medium", timeStyle: "medium"});

  const showTimes = (root) => {
    for (const each of root.querySelectorAll("time[datetime]:not([data-zoned])")) {
      const at = new Date(each.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      const hasSeconds = /:\d\d:\d\d UTC$/.test(each.textContent);
      each.textContent = (hasSeconds ? zonedSeconds : zoned).format(at);
      each.dataset.zoned = "";
    }
  };

  const addCopyButtons = (root) => {
    if (!navigator.clipboard) return;
    for (const each of root.querySelectorAll("[data-copy]:not([data-copies])")) {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "quiet";
      button.textContent = "Copy";
      const text = each.textContent;
      button.addEventListener("click", () => navigator.clipboard.writeText(text).then(
        () => { button.textContent = "Copied"; }, () => { button.textContent = "Not allowed"; }));
      each.append(button);
      each.dataset.copies = "";
    }
  };

  const prepare = (root) => {
    for (const each of root.querySelectorAll("[data-without-script]")) each.hidden = true;
    showTimes(root);
    addCopyButtons(root);
    window.paygentCharts?.(root);
  };

  /* A form that changes what the page shows is sent when it is changed. */
  document.addEventListener("change", (event) => {
    const form = event.target.closest?.("form[data-autosubmit]");
    if (!form) return;
    if ("customRange" in event.target.dataset) form.elements.range.value = "custom";
    if (form.elements.range?.value === "custom" && event.target.name === "range") {
      form.elements.from.focus();
      return;
    }
    if (form.reportValidity()) form.requestSubmit();
  });
  /* A named range needs no days, and what is empty needs no place in an address. */
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "get") return;
    for (const field of form.elements) {
      const isUnused = "customRange" in field.dataset && form.elements.range?.value !== "custom";
      if (isUnused || field.value === "") field.disabled = true;
    }
  }, true);

  document.addEventListener("htmx:after:swap", (event) => {
    const app = document.getElementById("app");
    prepare(app);
    /* A part of a page, as the check of a plan is, leaves the focus where someone types. */
    const target = event.detail?.ctx?.target;
    if (target instanceof Element && target !== app && app.contains(target)) return;
    const changedPage = event.detail?.ctx?.request?.action?.split("?")[0] !== lastPath;
    lastPath = location.pathname;
    /* The title of the window follows after this event. */
    document.getElementById("announcer").textContent = event.detail?.ctx?.title || document.title;
    if (changedPage || !app.contains(document.activeElement)) {
      document.getElementById("main")?.focus({preventScroll: true});
    }
    /* What was asked for, where it is below what was there before. */
    app.querySelector("[data-arrived]")?.scrollIntoView();
  });
  let lastPath = location.pathname;

  document.addEventListener("htmx:error", () => {
    document.getElementById("announcer").textContent = "The server cannot be reached.";
  });
  document.addEventListener("DOMContentLoaded", () => prepare(document));
})();
