/* Search in pages that are opened from disk. The search runs in a worker, which browsers don't start from a file: here,
   a hidden frame takes its place. The offline plugin of the theme would load such a script from another server. */
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const inside = frame.contentDocument;
      inside.open();
      inside.write(
        `<script>window.postMessage = (data) => parent.postMessage(data, "*");</script>` +
          `<script src="${new URL(url, location.href)}"></script>`,
      );
      this.target = frame.contentWindow;
      this.ready = new Promise((resolve) => frame.addEventListener("load", resolve, { once: true }));
      window.addEventListener("message", (event) => {
        if (event.source !== this.target) return;
        this.dispatchEvent(new MessageEvent("message", { data: event.data }));
      });
      inside.close();
    }

    postMessage(data) {
      this.ready.then(() => this.target.dispatchEvent(new MessageEvent("message", { data })));
    }
  };
}
